import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { GARBAGE_MAX } from "../../src/client/link.js";
import { CancelledError, OverloadedError, ProtocolError, UnauthorizedError } from "../../src/index.js";
import type { MeshEvent } from "../../src/index.js";
import { packBody } from "../../src/wire/body.js";
import { FakeMesh, turn } from "./fake.js";

const GARBAGE = [Uint8Array.of(0xc1)];

async function until(isSo: () => boolean): Promise<void> {
  for (const end = performance.now() + 20_000; !isSo();) {
    assert.ok(performance.now() < end, "it did not come true");
    await sleep(5);
  }
}

function answer(fake: FakeMesh, id: number, value: unknown): void {
  const body = packBody(value);
  fake.transport.tell({ type: "Final", id, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 }, body);
}

describe("a broker that answers garbage", () => {
  it("gets a new connection, on which outstanding calls are sent again and succeed", async () => {
    const fake = new FakeMesh();
    fake.transport.welcome();
    const events = fake.mesh.events();
    const asked = fake.mesh.call("echo", 1);
    await turn();
    const [first] = fake.transports;
    first?.handlers.onMessage(GARBAGE);
    assert.ok(first?.isClosed);
    await until(() => fake.transports.length === 2);
    fake.transport.welcome();
    assert.deepEqual([1], fake.transport.requests());
    answer(fake, 1, "fine");
    assert.equal("fine", await asked);
    await fake.mesh.close();
    const told: MeshEvent[] = [];
    for await (const event of events) {
      told.push(event);
    }
    assert.deepEqual(
      ["connected", "reconnecting", "connected", "closed"],
      told.map(({ type }) => type),
    );
  });

  it("costs callers a ProtocolError if it never greets", async () => {
    const fake = new FakeMesh();
    const asked = fake.mesh.call("echo", 1);
    const refused = assert.rejects(
      asked,
      (error) => error instanceof ProtocolError && error.message.includes("ipc://nowhere"),
    );
    for (let count = 1; count <= GARBAGE_MAX; count++) {
      await until(() => fake.transports.length === count);
      fake.transport.handlers.onMessage(GARBAGE);
    }
    await refused;
    await fake.mesh.close();
  });

  it("harms nobody but the caller whose result it is", async () => {
    const fake = new FakeMesh();
    fake.transport.welcome();
    const asked = [fake.mesh.call("echo", 1), fake.mesh.call("echo", 2)] as const;
    await turn();
    fake.transport.tell({ type: "Final", id: 1, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 }, GARBAGE);
    answer(fake, 2, "fine");
    await assert.rejects(asked[0], ProtocolError);
    assert.equal("fine", await asked[1]);
    assert.equal(1, fake.transports.length);
    await fake.mesh.close();
  });

  it("is not listened to any more once its connection is given up", async () => {
    const fake = new FakeMesh();
    fake.transport.welcome();
    const asked = fake.mesh.call("echo", 1);
    await turn();
    const old = fake.transport;
    old.handlers.onMessage(GARBAGE);
    old.tell({ type: "Final", id: 1, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 }, packBody("old"));
    await until(() => fake.transports.length === 2);
    answer(fake, 1, "new");
    assert.equal("new", await asked);
    await fake.mesh.close();
  });
});

describe("a connection that is refused", () => {
  it("ends the calls with the reason, and is tried again only for a call", async () => {
    const fake = new FakeMesh();
    const asked = [fake.mesh.call("echo", 1), fake.mesh.call("echo", 2)];
    const refused = asked.map((each) => assert.rejects(each, UnauthorizedError));
    fake.transport.handlers.onFault({ told: "no" });
    await Promise.all(refused);
    await sleep(300);
    assert.equal(1, fake.transports.length);
    const again = fake.mesh.call("echo", 3);
    await until(() => fake.transports.length === 2);
    answer(fake, 3, "fine");
    assert.equal("fine", await again);
    await fake.mesh.close();
  });
});

describe("what is said in one turn", () => {
  it("goes in one bundle", async () => {
    const fake = new FakeMesh();
    fake.transport.welcome();
    await turn();
    const before = fake.transport.messages;
    const asked = Array.from({ length: 20 }, (_, number) => fake.mesh.call("echo", number));
    await turn();
    // The first went at once, since nobody was there to share a bundle with.
    assert.equal(20, fake.transport.requests().length);
    assert.equal(2, fake.transport.messages - before);
    const ended = asked.map((each) => assert.rejects(each, CancelledError));
    await fake.mesh.close();
    await Promise.all(ended);
  });
});

describe("a client", () => {
  it("holds no more bytes than the broker would queue", async () => {
    const fake = new FakeMesh();
    const large = new Float32Array(15_000_000);
    const ended = [1, 2, 3, 4].map(() => assert.rejects(fake.mesh.call("echo", large), CancelledError));
    await assert.rejects(fake.mesh.call("echo", large), OverloadedError);
    await fake.mesh.close();
    await Promise.all(ended);
  });

  it("waits for what is under way if asked to, takes nothing new meanwhile, and says goodbye", async () => {
    const fake = new FakeMesh();
    fake.transport.welcome();
    const asked = fake.mesh.call("echo", 1);
    await turn();
    const closed = fake.mesh.close({ drainMs: 60_000 });
    await assert.rejects(fake.mesh.call("echo", 2), CancelledError);
    assert.ok(!fake.transport.isClosed);
    answer(fake, 1, "fine");
    assert.equal("fine", await asked);
    await closed;
    assert.ok(fake.transport.isClosed);
    assert.equal("Bye", fake.transport.types().at(-1));
  });

  it("ends what is still under way when the drain is over", async () => {
    const fake = new FakeMesh();
    const ended = assert.rejects(fake.mesh.call("echo", 1), CancelledError);
    await fake.mesh.close({ drainMs: 30 });
    await ended;
  });

  it("gives each caller an error of its own, with the caller's stack", async () => {
    const fake = new FakeMesh();
    async function one(): Promise<void> {
      await fake.mesh.call("echo", 1);
    }
    async function other(): Promise<void> {
      await fake.mesh.call("echo", 2);
    }
    const stacks = [one(), other()].map((each) => each.catch((error: unknown) => (error as Error).stack));
    await fake.mesh.close();
    const [first, second] = await Promise.all(stacks);
    assert.match(first ?? "", /at async one/);
    assert.match(second ?? "", /at async other/);
  });

  it("keeps the newest events for a watcher that does not read", async () => {
    const fake = new FakeMesh();
    const events = fake.mesh.events();
    for (let epoch = 0; epoch < 500; epoch++) {
      fake.transport.welcome(`e${epoch}`);
    }
    await fake.mesh.close();
    const told: MeshEvent[] = [];
    for await (const event of events) {
      told.push(event);
    }
    assert.equal(256, told.length);
    assert.deepEqual({ type: "epoch", epoch: "e499", previous: "e498" }, told.at(-2));
    assert.deepEqual({ value: undefined, done: true }, await events.next());
  });
});
