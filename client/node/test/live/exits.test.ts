import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";
import { after, before, describe, it } from "node:test";

import { end, LiveMesh, PATIENCE_MS } from "./mesh.js";
import { run } from "./program.js";

/** Accepts connections and never says a word. */
class Silent implements AsyncDisposable {
  private readonly sockets = new Set<Socket>();
  private readonly server: Server = createServer((socket) => {
    this.sockets.add(socket.on("error", () => undefined));
  });

  async listen(): Promise<string> {
    await once(this.server.listen(0, "127.0.0.1"), "listening");
    return `tcp://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) {
      socket.destroy();
    }
    await once(this.server.close(), "close");
  }
}

/** A call, and `close` while nobody has answered yet. */
const CLOSED_EARLY = `
  const mesh = await connect({ endpoint });
  const asked = mesh.call("echo", 1).catch((error) => console.log(error.code));
  await new Promise((resolve) => setTimeout(resolve, 200));
  await mesh.close();
  await asked;`;

describe("a process with a client", { timeout: 6 * PATIENCE_MS }, () => {
  let live: LiveMesh;
  let ticker: ChildProcess;

  before(async () => {
    live = new LiveMesh();
    live.broker();
    live.worker("echo", "echo");
    ticker = live.worker("mine:Ticker", "ticker");
    await live.ready("echo", "tick");
  });

  after(async () => {
    await end(ticker, "SIGKILL"); // It would finish what it has, of processes that are gone without a goodbye.
    await live[Symbol.asyncDispose]();
  });

  it("exits by itself once the client is closed", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       console.log(await mesh.call("echo", "hello"));
       await mesh.close();
       await mesh.close();`,
    );
    assert.deepEqual({ status: 0, output: "hello\n" }, ended);
  });

  it("exits by itself with calls and streams outstanding, which end with an error", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       const stream = mesh.stream("tick", "exit");
       await stream.next();
       const calls = [mesh.call("hang", 1), mesh.call("hang", 2), stream.next().then(() => stream.next())];
       const ended = Promise.allSettled(calls);
       setTimeout(() => mesh.close(), 100);
       for (const { reason } of await ended) console.log(reason?.code);`,
    );
    assert.equal(ended.status, 0, ended.output);
    assert.match(ended.output, /^CANCELLED\nCANCELLED\n/);
  });

  it("exits by itself and without a warning where no broker is", async () => {
    const ended = await run(
      `ipc://${live.dir}/nobody.sock`,
      `const mesh = await connect({ endpoint });
       const asked = mesh.call("echo", 1).catch((error) => console.log(error.code));
       await mesh.close();
       await asked;`,
    );
    assert.deepEqual({ status: 0, output: "CANCELLED\n" }, ended);
  });

  it("is told of calls that nobody waits for as any promise tells, and goes on else", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       const text = mesh.generate("nobody serves this");
       text.final;
       await new Promise((resolve) => setTimeout(resolve, 200));
       console.log(await mesh.call("echo", "fine"));
       await mesh.close();`,
    );
    assert.deepEqual({ status: 0, output: "fine\n" }, ended);
  });

  it("exits by itself in the middle of a handshake", async () => {
    await using silent = new Silent();
    assert.deepEqual({ status: 0, output: "CANCELLED\n" }, await run(await silent.listen(), CLOSED_EARLY));
  });

  it("exits by itself while its connection is refused", async () => {
    const silent = new Silent();
    const endpoint = await silent.listen();
    await silent[Symbol.asyncDispose]();
    assert.deepEqual({ status: 0, output: "CANCELLED\n" }, await run(endpoint, CLOSED_EARLY));
  });

  it("exits by itself when clients are closed before they are connected, or cannot be made", async () => {
    const ended = await run(
      live.endpoint,
      `const connecting = Array.from({ length: 20 }, () => connect({ endpoint }));
       await Promise.all(connecting.map((each) => each.then((mesh) => mesh.close())));
       await connect({ endpoint: "ipc://" }).catch((error) => console.log(error.code));`,
    );
    assert.deepEqual({ status: 0, output: "INVALID_REQUEST\n" }, ended);
  });

  it("is not held up by what it no longer looks at", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       const signal = AbortSignal.timeout(${2 * PATIENCE_MS});
       const events = mesh.events();
       mesh.stream("tick", "never read");
       await mesh.stream("tick", "left", { signal }).next();
       const waiting = mesh.ready({ ops: "nobody.serves", signal }).catch((error) => console.log(error.code));
       console.log(await mesh.call("echo", "hello", { signal }));
       await mesh.close({ drainMs: 200 });
       await waiting;`,
    );
    assert.deepEqual({ status: 0, output: "hello\nCANCELLED\n" }, ended);
  });

  it("waits for what it drains, and no longer", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       const answers = Promise.all(Array.from({ length: 200 }, (_, index) => mesh.call("echo", index)));
       await mesh.close({ drainMs: ${2 * PATIENCE_MS} });
       console.log((await answers).length);`,
    );
    assert.deepEqual({ status: 0, output: "200\n" }, ended);
  });

  it("is ended by an error that nobody catches, with calls outstanding", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       mesh.call("hang", "for ever").catch(() => undefined);
       await mesh.stream("tick", "thrown").next();
       throw new Error("as planned");`,
    );
    assert.equal(1, ended.status, ended.output);
    assert.match(ended.output, /as planned/);
  });

  it("is ended by process.exit, with calls outstanding", async () => {
    const ended = await run(
      live.endpoint,
      `const mesh = await connect({ endpoint });
       mesh.call("hang", "for ever").catch(() => undefined);
       await mesh.stream("tick", "exited").next();
       process.exit(3);`,
    );
    assert.deepEqual({ status: 3, output: "" }, ended);
  });
});
