import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CALL_CHANNELS, CancelledError, MeshError, OverloadedError, UnauthorizedError } from "../../src/index.js";
import type { CallStart } from "../../src/index.js";
import { traceOf } from "../../src/telemetry/trace.js";
import type { Call } from "../../src/session/pending.js";
import { packBody } from "../../src/wire/body.js";
import { FakeMesh, turn } from "../client/fake.js";
import { answer, Listener, sentTraceparents } from "./listener.js";

const CALL: Call = {
  op: "echo",
  model: "",
  lane: 1,
  timeoutMs: 1000,
  flags: 0,
  window: 0,
  affinity: new Uint8Array(0),
  traceparent: "",
  frames: [],
};

/** A client whose broker has greeted it. */
function welcomed(): FakeMesh {
  const fake = new FakeMesh();
  fake.transport.welcome();
  return fake;
}

describe("a request that is told of", { timeout: 60_000 }, () => {
  it("says what it is at its start, and how it went at its end, before its caller goes on", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const asked = fake.mesh.call("echo", "four", { model: "m", lane: "bulk", timeoutMs: 5000, atMostOnce: true });
    const done = asked.then(() => listener.order.push("the caller"));
    const [start] = listener.starts;
    assert.deepEqual(
      {
        call: start?.call,
        op: "echo",
        model: "m",
        lane: "bulk",
        stream: false,
        atMostOnce: true,
        timeoutMs: 5000,
        bytes: 5,
        endpoint: "ipc://nowhere",
        traceparent: "",
      },
      start,
    );
    answer(fake, 1, "four", { attempts: 2, queueUs: 1500, serviceUs: 2500, flags: 3 });
    await done;
    assert.deepEqual(["start echo", "end echo", "the caller"], listener.order);
    const [end] = listener.ends;
    assert.ok(end !== undefined && end.totalMs > 0 && end.totalMs < 60_000);
    const { totalMs } = end;
    assert.deepEqual(
      {
        ...start,
        requestId: 1,
        retries: 0,
        moved: 0,
        chunks: 0,
        firstChunkMs: undefined,
        totalMs,
        left: false,
        attempts: 2,
        queueMs: 1.5,
        serviceMs: 2.5,
        cached: true,
        shared: true,
      },
      end,
    );
    await fake.mesh.close();
  });

  it("tells its code and error when it fails, and the retries before that", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const failed = assert.rejects(fake.mesh.call("echo", 1), OverloadedError);
    const full = { type: "Error", code: "OVERLOADED", message: "full", retryAfterMs: 0 } as const;
    fake.transport.tell({ ...full, id: 1, retryable: true });
    while (fake.transport.requests().length < 2) {
      await sleep(5);
    }
    fake.transport.tell({ ...full, id: 2, retryable: false });
    await failed;
    assert.deepEqual(["start echo", "error echo"], listener.order);
    const [error] = listener.errors;
    assert.deepEqual(["OVERLOADED", 2, 1, undefined], [error?.code, error?.requestId, error?.retries, error?.attempts]);
    assert.ok(error?.error instanceof OverloadedError);
    assert.equal(listener.starts[0]?.call, error.call);
    await fake.mesh.close();
  });

  it("is an error when its signal aborts, with the reason", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const ender = new AbortController();
    const failed = assert.rejects(fake.mesh.call("echo", 1, { signal: ender.signal }), CancelledError);
    ender.abort("enough");
    await failed;
    answer(fake, 1, "too late");
    await turn();
    assert.deepEqual(["start echo", "error echo"], listener.order);
    assert.deepEqual(["CANCELLED", "enough"], [listener.errors[0]?.code, listener.errors[0]?.error.cause]);
    await fake.mesh.close();
  });

  it("is an error when it is refused by the client itself", async () => {
    using listener = new Listener();
    const fake = welcomed();
    await fake.mesh.close();
    await assert.rejects(fake.mesh.call("echo", 1), CancelledError);
    await assert.rejects(fake.mesh.call("echo", 1, { timeoutMs: -1 }), MeshError);
    assert.deepEqual(["start echo", "error echo"], listener.order);
    assert.deepEqual(["CANCELLED", 0], [listener.errors[0]?.code, listener.errors[0]?.requestId]);
  });

  it("is told when one more than can wait in the client is refused at once", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const calls = Array.from({ length: 64 + 1024 + 1 }, () => fake.mesh.call("echo", 1));
    const all = Promise.allSettled(calls);
    await turn();
    assert.deepEqual(
      ["OVERLOADED"],
      listener.errors.map(({ code }) => code),
    );
    await fake.mesh.close();
    await all;
    assert.equal(calls.length, listener.starts.length);
    assert.equal(calls.length, new Set(listener.errors.map(({ call }) => call)).size);
    assert.equal(calls.length, listener.errors.length);
  });
});

describe("a stream that is told of", { timeout: 60_000 }, () => {
  it("begins when it is read, and tells its chunks and when the first one came", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const stream = fake.mesh.stream("tick", 1);
    assert.deepEqual([], listener.order);
    const first = stream.next();
    fake.transport.tell({ type: "Chunk", id: 1, seq: 0 }, packBody("a"));
    await first;
    fake.transport.tell({ type: "Chunk", id: 1, seq: 1 }, packBody("b"));
    answer(fake, 1, "end", { chunks: 2 });
    assert.equal("b", (await stream.next()).value);
    assert.equal(true, (await stream.next()).done);
    assert.deepEqual(["start tick", "end tick"], listener.order);
    const [end] = listener.ends;
    assert.deepEqual([true, 2, false, 1], [end?.stream, end?.chunks, end?.left, end?.attempts]);
    assert.ok(end?.firstChunkMs !== undefined && end.firstChunkMs > 0 && end.firstChunkMs <= end.totalMs);
    await fake.mesh.close();
  });

  it("is no error when its reader leaves early", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const stream = fake.mesh.stream("tick", 1);
    const first = stream.next();
    fake.transport.tell({ type: "Chunk", id: 1, seq: 0 }, packBody("a"));
    await first;
    await stream.return();
    await turn();
    assert.deepEqual(["start tick", "end tick"], listener.order);
    const [end] = listener.ends;
    assert.deepEqual([true, 1, undefined], [end?.left, end?.chunks, end?.attempts]);
    await fake.mesh.close();
  });

  it("is an error when a chunk cannot be read", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const failed = assert.rejects(fake.mesh.stream("tick", 1).next(), MeshError);
    fake.transport.tell({ type: "Chunk", id: 1, seq: 0 }, [Uint8Array.of(0xc1)]);
    await failed;
    await turn();
    assert.deepEqual(
      ["PROTOCOL_ERROR"],
      listener.errors.map(({ code }) => code),
    );
    await fake.mesh.close();
  });
});

describe("a subscriber", { timeout: 60_000 }, () => {
  it("costs nothing where there is none: nothing is made", () => {
    assert.equal(undefined, traceOf(CALL, "ipc://nowhere"));
    const ignore = (): void => undefined;
    for (const name of Object.values(CALL_CHANNELS)) {
      subscribe(name, ignore);
      assert.notEqual(undefined, traceOf(CALL, "ipc://nowhere"));
      unsubscribe(name, ignore);
    }
    assert.equal(undefined, traceOf(CALL, "ipc://nowhere"));
  });

  it("is not told of status", async () => {
    using listener = new Listener();
    const fake = welcomed();
    const asked = fake.mesh.status();
    answer(fake, 1, { epoch: "e1", workers: [] });
    await asked;
    assert.deepEqual([], listener.order);
    await fake.mesh.close();
  });

  it("hears of a start in the async context of its caller", async () => {
    const storage = new AsyncLocalStorage<string>();
    const heard: (string | undefined)[] = [];
    const hear = (): void => void heard.push(storage.getStore());
    subscribe(CALL_CHANNELS.start, hear);
    const fake = welcomed();
    const calls = ["one", "other"].map((name) => storage.run(name, () => fake.mesh.call("echo", name)));
    answer(fake, 1, 1);
    await turn();
    answer(fake, 2, 2);
    await Promise.all(calls);
    unsubscribe(CALL_CHANNELS.start, hear);
    assert.deepEqual(["one", "other"], heard);
    await fake.mesh.close();
  });

  it("may say which traceparent is sent, but nothing else about the request", async () => {
    using listener = new Listener();
    const left = ["00-mine", "x".repeat(65), "\ud800", 7, undefined];
    const rest = left.values();
    const change = (message: unknown): void => {
      Object.assign(message as CallStart, { traceparent: rest.next().value, op: "other", call: {} });
    };
    subscribe(CALL_CHANNELS.start, change);
    const fake = welcomed();
    const ended = left.map(() => assert.rejects(fake.mesh.call("echo", 1, { traceparent: "00-given" })));
    await turn();
    unsubscribe(CALL_CHANNELS.start, change);
    const expected = ["00-mine", "00-given", "00-given", "00-given", "00-given"];
    assert.deepEqual(expected, sentTraceparents(fake));
    await fake.mesh.close();
    await Promise.all(ended);
    assert.deepEqual(
      expected.map((traceparent) => ["echo", traceparent]),
      listener.errors.map(({ op, traceparent }) => [op, traceparent]),
    );
  });

  it("may freeze what it gets", async () => {
    using listener = new Listener();
    subscribe(CALL_CHANNELS.start, Object.freeze);
    const fake = welcomed();
    const asked = fake.mesh.call("echo", 1);
    answer(fake, 1, "fine");
    assert.equal("fine", await asked);
    unsubscribe(CALL_CHANNELS.start, Object.freeze);
    assert.deepEqual(["start echo", "end echo"], listener.order);
    await fake.mesh.close();
  });

  it("may begin the next request when it hears of the end of one", async () => {
    const fake = welcomed();
    const answers: Promise<unknown>[] = [];
    const next = (): void => {
      if (answers.length < 3) {
        answers.push(fake.mesh.call("echo", answers.length));
      }
    };
    subscribe(CALL_CHANNELS.end, next);
    next();
    for (let id = 1; id <= 3; id++) {
      answer(fake, id, id);
      await turn();
    }
    unsubscribe(CALL_CHANNELS.end, next);
    assert.deepEqual([1, 2, 3], await Promise.all(answers));
    await fake.mesh.close();
  });

  it("may begin one when it hears of the end of all, and that one does not end with them", async () => {
    const fake = welcomed();
    await turn();
    let next: Promise<unknown> | undefined;
    const again = (): void => {
      next ??= fake.mesh.call("echo", "again");
    };
    subscribe(CALL_CHANNELS.error, again);
    const failed = [1, 2].map((number) => assert.rejects(fake.mesh.call("echo", number), UnauthorizedError));
    fake.transport.handlers.onFault({ told: "no" });
    await Promise.all(failed);
    unsubscribe(CALL_CHANNELS.error, again);
    while (fake.transports.length < 2) {
      await sleep(5);
    }
    fake.transport.welcome();
    answer(fake, 3, "fine");
    assert.equal("fine", await next);
    await fake.mesh.close();
  });
});
