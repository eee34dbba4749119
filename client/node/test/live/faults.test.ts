import assert from "node:assert/strict";
import { createConnection } from "node:net";
import { afterEach, beforeEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import * as zeromq from "zeromq";

import { DeadlineExceededError, ProtocolError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { end, LiveMesh, PATIENCE_MS, until } from "./mesh.js";

const CALLERS = 16;

/** Callers that ask without a pause until they are to stop; an answer that is not theirs, or an error, ends them all. */
class Callers {
  answered = 0;
  private stopping = false;
  private readonly all: Promise<unknown>;

  constructor(mesh: Mesh) {
    this.all = Promise.all(Array.from({ length: CALLERS }, (_, caller) => this.run(mesh, caller)));
    this.all.catch(() => undefined);
  }

  /** Return once so many more calls were answered. */
  async more(calls: number): Promise<void> {
    const wanted = this.answered + calls;
    await Promise.race([this.all, until(`${calls} more answers`, () => this.answered >= wanted)]);
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await this.all;
  }

  private async run(mesh: Mesh, caller: number): Promise<void> {
    for (let count = 0; !this.stopping; count++) {
      const asked = `${caller}:${count}`;
      const answer = await mesh.call("echo", asked, { waitForReady: true, timeoutMs: PATIENCE_MS });
      assert.equal(answer, asked);
      this.answered += 1;
    }
  }
}

describe("faults of a live mesh", { timeout: 6 * PATIENCE_MS }, () => {
  let live: LiveMesh;

  beforeEach(() => {
    live = new LiveMesh();
  });

  afterEach(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("a broker that is killed and started again costs no call, and is told as another epoch", async () => {
    let broker = live.broker();
    live.worker("echo", "echo");
    const mesh = await live.ready("echo");
    const events = mesh.events();
    const callers = new Callers(mesh);
    await callers.more(100);
    for (let kill = 0; kill < 2; kill++) {
      await end(broker, "SIGKILL");
      broker = live.broker();
      await callers.more(200);
    }
    await callers.stop();
    await mesh.close();
    const types: string[] = [];
    for await (const { type } of events) {
      types.push(type);
    }
    assert.equal(2, types.filter((type) => type === "epoch").length);
  });

  it("a broker that is silent gets a new connection, and the calls an answer when it wakes", async () => {
    const broker = live.broker("--ping-s", "0.2", "--silent-s", "1");
    live.worker("echo", "echo");
    const mesh = await live.ready("echo");
    const events = mesh.events();
    broker.kill("SIGSTOP");
    const asked = mesh.call("echo", "still", { timeoutMs: PATIENCE_MS });
    for await (const event of events) {
      if (event.type === "reconnecting") {
        assert.equal("silence", event.reason);
        break;
      }
    }
    broker.kill("SIGCONT");
    assert.equal("still", await asked);
  });

  it("a broker that is not there costs a call its time, and the error says what to do", async () => {
    const mesh = await live.client();
    await assert.rejects(mesh.call("echo", 1, { timeoutMs: 200 }), (error) => {
      assert.ok(error instanceof DeadlineExceededError);
      assert.match(error.message, /mlx-mesh up/);
      return true;
    });
    await assert.rejects(mesh.ready({ ops: "echo", timeoutMs: 200 }), DeadlineExceededError);
    const asked = mesh.call("echo", "late", { timeoutMs: PATIENCE_MS, waitForReady: true });
    live.broker();
    live.worker("echo", "echo");
    assert.equal("late", await asked);
  });

  it("a peer that answers garbage costs callers a ProtocolError, until a broker is in its place", async () => {
    const peer = new zeromq.Router({ linger: 0 });
    await peer.bind(live.endpoint);
    void (async () => {
      for await (const [id] of peer) {
        await peer.send([id ?? null, Buffer.from("HTTP/1.1 400 Bad Request")]);
      }
    })().catch(() => undefined);
    const mesh = await live.client();
    await assert.rejects(mesh.call("echo", 1, { timeoutMs: PATIENCE_MS }), ProtocolError);
    peer.close();
    while (await listens(live.endpoint.slice("ipc://".length))) {
      await sleep(20);
    }
    const asked = mesh.call("echo", "well", { timeoutMs: PATIENCE_MS, waitForReady: true });
    live.broker();
    live.worker("echo", "echo");
    assert.equal("well", await asked);
  });
});

/** Whether anybody accepts connections at a socket. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    const told = (does: boolean): void => {
      socket.destroy();
      resolve(does);
    };
    socket.once("connect", () => {
      told(true);
    });
    socket.once("error", () => {
      told(false);
    });
  });
}
