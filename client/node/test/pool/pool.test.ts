import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { afterEach, beforeEach, describe, it } from "node:test";

import {
  CancelledError,
  createPool,
  DeadlineExceededError,
  InvalidRequestError,
  OverloadedError,
} from "../../src/index.js";
import type { MeshError, Pool, PoolOptions, PoolTask, RunOptions } from "../../src/index.js";
import { packBody, unpackBody } from "../../src/wire/body.js";
import { Lane } from "../../src/wire/messages.js";
import { FakeMesh, turn } from "../client/fake.js";

const TASK: PoolTask = { op: "echo", payload: 1 };

/** What a program without types may give. */
type Anything = Record<string, unknown>;

describe("a pool", () => {
  let fake: FakeMesh;

  beforeEach(() => {
    fake = new FakeMesh();
    fake.transport.welcome();
  });

  afterEach(async () => {
    await fake.mesh.close();
  });

  function poolOf(options: PoolOptions = {}): Pool {
    return createPool({ mesh: fake.mesh, concurrentTasks: 2, maxQueue: 3, ...options });
  }

  /** Give so many tasks, whose payloads are their numbers. */
  function many(pool: Pool, count: number, options?: RunOptions): Promise<unknown>[] {
    return Array.from({ length: count }, (_, payload) => pool.run({ op: "echo", payload }, options));
  }

  function answer(id: number, value: unknown, serviceUs = 0): void {
    const final = { type: "Final", id, attempts: 1, queueUs: 0, serviceUs, flags: 0, chunks: 0 } as const;
    fake.transport.tell(final, packBody(value));
  }

  /** The payloads that were sent, in order. */
  function sent(): unknown[] {
    const requests = fake.transport.sent.filter(({ message }) => message.type === "Request");
    return requests.map(({ frames }) => unpackBody(frames));
  }

  it("sends as many tasks as it has places, and the others as places come free", async () => {
    const pool = poolOf();
    const results = many(pool, 5);
    await turn();
    assert.deepEqual(sent(), [0, 1]);
    assert.equal(pool.queueSize, 3);
    for (const id of [2, 1, 3, 4, 5]) {
      answer(id, id * 10);
      await turn();
    }
    assert.deepEqual(await Promise.all(results), [10, 20, 30, 40, 50]);
    assert.deepEqual([pool.queueSize, pool.completed], [0, 5]);
  });

  it("refuses a task for which there is no room, without harm to others", async () => {
    const pool = poolOf();
    const results = many(pool, 6);
    await assert.rejects(results[5] ?? assert.fail(), (error) => {
      assert.ok(error instanceof OverloadedError && error.retryable);
      assert.deepEqual(error.details, { limit: 3 });
      return true;
    });
    await turn();
    assert.deepEqual(sent(), [0, 1]);
    await destroyed(pool, results);
  });

  it("refuses tasks whose payloads are too much to keep", async () => {
    const pool = poolOf({ concurrentTasks: 1, maxQueue: 1000 });
    const payload = new Uint8Array(60 * 1024 * 1024);
    const results = Array.from({ length: 6 }, () => pool.run({ op: "echo", payload }));
    await assert.rejects(results[5] ?? assert.fail(), /bytes wait in this pool/);
    assert.equal(pool.queueSize, 4);
    await destroyed(pool, results);
    assert.equal(pool.queueSize, 0);
  });

  it("sends what waits in higher lanes first", async () => {
    const pool = poolOf({ concurrentTasks: 1, defaults: { lane: "bulk" } });
    const results = ["first", "bulk", "standard", "interactive"].map((payload) => {
      return pool.run({ op: "echo", payload }, payload === "first" ? {} : { lane: payload as "bulk" });
    });
    for (const id of [1, 2, 3, 4]) {
      await turn();
      answer(id, id);
    }
    await Promise.all(results);
    assert.deepEqual(sent(), ["first", "interactive", "standard", "bulk"]);
  });

  it("takes the op from the options, the task or the pool, and options from its defaults", async () => {
    const pool = poolOf({ name: "third", defaults: { lane: "interactive", model: "m" } });
    const given: [PoolTask, RunOptions][] = [
      [
        { op: "second", payload: 1 },
        { name: "first", model: "other" },
      ],
      [
        { op: "second", payload: 1 },
        { name: null, lane: undefined, signal: null },
      ],
      [{ payload: 1 }, {}],
    ];
    for (const [index, [task, options]] of given.entries()) {
      const result = pool.run(task, options);
      await turn();
      answer(index + 1, "done");
      assert.equal(await result, "done");
    }
    const requests = fake.transport.sent.flatMap(({ message }) => (message.type === "Request" ? [message] : []));
    assert.deepEqual(
      requests.map(({ op, model, lane }) => [op, model, lane]),
      [
        ["first", "other", Lane.interactive],
        ["second", "m", Lane.interactive],
        ["third", "m", Lane.interactive],
      ],
    );
  });

  it("copies a payload when the task is given", async () => {
    const pool = poolOf({ concurrentTasks: 1 });
    const values = Float32Array.of(1, 2);
    const results = [pool.run(TASK), pool.run({ op: "echo", payload: { values } })];
    values.fill(0);
    await turn();
    answer(1, 1);
    await turn();
    const { values: seen } = sent()[1] as { values: { toFloat32(): Float32Array } };
    assert.deepEqual(seen.toFloat32(), Float32Array.of(1, 2));
    answer(2, 1);
    await Promise.all(results);
  });

  it("drops a waiting task whose signal aborts, and leaves no listener", async () => {
    const pool = poolOf();
    const ender = new AbortController();
    const results = many(pool, 2);
    const dropped = pool.run(TASK, { signal: ender.signal });
    const kept = pool.run({ op: "echo", payload: "kept" }, { signal: AbortSignal.any([]) });
    assert.equal(pool.queueSize, 2);
    ender.abort("enough");
    await assert.rejects(dropped, { code: "CANCELLED", cause: "enough" });
    assert.deepEqual([pool.queueSize, getEventListeners(ender.signal, "abort").length], [1, 0]);
    for (const id of [1, 2, 3]) {
      await turn();
      answer(id, id);
    }
    assert.deepEqual(await Promise.all([...results, kept]), [1, 2, 3]);
    assert.deepEqual([sent(), pool.completed], [[0, 1, "kept"], 3]);
  });

  it("cancels a running task whose signal aborts, and gives its place to the next", async () => {
    const pool = poolOf({ concurrentTasks: 1 });
    const ender = new AbortController();
    const result = pool.run(TASK, { signal: ender.signal });
    const next = pool.run({ op: "echo", payload: "next" });
    await turn();
    ender.abort();
    await assert.rejects(result, CancelledError);
    await turn();
    assert.deepEqual(fake.transport.types().slice(1), ["Request", "Cancel", "Request"]);
    answer(2, "fine");
    assert.equal(await next, "fine");
    assert.deepEqual([pool.completed, getEventListeners(ender.signal, "abort").length], [2, 0]);
  });

  it("takes no task whose signal has aborted", async () => {
    const pool = poolOf();
    await assert.rejects(pool.run(TASK, { signal: AbortSignal.abort() }), CancelledError);
    await turn();
    assert.deepEqual(sent(), []);
  });

  it("ends a task at its deadline while it waits, and what it waited counts for one that is sent", async () => {
    const pool = poolOf({ concurrentTasks: 1 });
    const first = pool.run(TASK, { timeoutMs: 60_000 });
    await assert.rejects(pool.run(TASK, { timeoutMs: 50 }), (error) => {
      assert.ok(error instanceof DeadlineExceededError);
      assert.match(error.message, /no place in this pool/);
      return true;
    });
    const second = pool.run(TASK, { timeoutMs: 60_000 });
    await new Promise((resolve) => setTimeout(resolve, 30));
    answer(1, 1);
    await turn();
    const last = fake.transport.sent.at(-1)?.message;
    assert.ok(last?.type === "Request" && last.remainingMs <= 59_975, JSON.stringify(last));
    answer(2, 2);
    assert.deepEqual(await Promise.all([first, second]), [1, 2]);
  });

  it("tells when it is full, and when there is a place again", async () => {
    const pool = poolOf();
    const told: string[] = [];
    pool.on("needsDrain", () => told.push(`needsDrain ${pool.queueSize}`));
    pool.on("drain", () => told.push(`drain ${pool.queueSize}`));
    const results = many(pool, 3);
    await turn();
    assert.deepEqual([pool.needsDrain, told], [true, ["needsDrain 1"]]);
    answer(1, 1);
    await turn();
    assert.deepEqual([pool.needsDrain, told.length], [true, 1]);
    answer(2, 2);
    await turn();
    assert.deepEqual([pool.needsDrain, told], [false, ["needsDrain 1", "drain 0"]]);
    answer(3, 3);
    await Promise.all(results);
    assert.equal(told.length, 2);
  });

  it("tells run and wait times in milliseconds, of tasks with a result", async () => {
    const pool = poolOf();
    assert.deepEqual([pool.histogram.runTime.min, pool.histogram.waitTime.p99], [0, 0]);
    const [first, second, third] = many(pool, 3);
    await turn();
    fake.transport.tell({ type: "Error", id: 1, code: "ENGINE_ERROR", message: "", retryable: false, retryAfterMs: 0 });
    await assert.rejects(first ?? assert.fail(), { code: "ENGINE_ERROR" });
    await turn();
    await new Promise((resolve) => setTimeout(resolve, 25));
    answer(2, 0, 20_000);
    answer(3, 0, 10_000);
    await Promise.all([second, third]);
    const { runTime, waitTime } = pool.histogram;
    assert.ok(Math.abs(runTime.average - 15) < 0.1 && runTime.mean === runTime.average, JSON.stringify(runTime));
    assert.ok(Math.abs(runTime.p99 - 20) < 0.1 && Math.abs(runTime.min - 10) < 0.1, JSON.stringify(runTime));
    assert.ok(waitTime.max >= 14 && waitTime.max < 20_000, JSON.stringify(waitTime));
    assert.equal(pool.completed, 3);
    pool.histogram.resetRunTime();
    assert.equal(pool.histogram.runTime.max, 0);
    assert.ok(pool.histogram.waitTime.max > 0);
    pool.histogram.resetWaitTime();
    assert.equal(pool.histogram.waitTime.max, 0);
  });

  it("says how much of its places was taken", async () => {
    const pool = poolOf();
    const idle = pool.utilization;
    assert.equal(idle, 0);
    const results = many(pool, 1);
    // It comes the nearer to one of two places the longer the task runs, however late it came.
    let taken = 0;
    for (const end = performance.now() + 60_000; taken <= 0.05 && performance.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 40));
      taken = pool.utilization;
    }
    assert.ok(taken > 0.05 && taken <= 0.5, String(taken));
    assert.ok(pool.duration >= 39);
    await destroyed(pool, results);
  });

  it("waits at its close for what it has, and takes no more", async () => {
    const pool = poolOf();
    const results = many(pool, 3);
    const closed = pool.close();
    let isClosed = false;
    pool.once("close", () => (isClosed = true));
    await assert.rejects(pool.run(TASK), CancelledError);
    for (const id of [1, 2, 3]) {
      await turn();
      assert.ok(!isClosed);
      answer(id, id);
    }
    assert.deepEqual(await Promise.all(results), [1, 2, 3]);
    await closed;
    assert.ok(isClosed);
    assert.equal(fake.transport.isClosed, false, "the client was given, and is not the pool's to close");
    await pool.close();
  });

  it("ends what waits when it is closed by force, and what runs after closeTimeout", async () => {
    const pool = poolOf({ closeTimeout: 50 });
    const results = Promise.allSettled(many(pool, 4));
    await turn();
    await pool.close({ force: true });
    for (const result of await results) {
      assert.equal(result.status, "rejected");
      assert.match(String(result.reason), /pool is closed/);
    }
    await turn();
    assert.deepEqual(sent(), [0, 1]);
    assert.equal(fake.transport.types().filter((type) => type === "Cancel").length, 2);
  });

  it("ends everything at once when it is destroyed, also while it closes", async () => {
    const pool = poolOf();
    const results = many(pool, 4);
    await turn();
    const closed = pool.close();
    await destroyed(pool, results);
    await closed;
  });

  for (const [what, field, options] of [
    ["no place", "concurrentTasks", { concurrentTasks: 0 }],
    ["places that are not whole", "concurrentTasks", { concurrentTasks: 1.5 }],
    ["a queue without end", "maxQueue", { maxQueue: Infinity }],
    ["a queue of another kind", "maxQueue", { maxQueue: "big" }],
    ["threads", "maxThreads", { maxThreads: 4 }],
    ["a mesh that is none", "mesh", { mesh: {} }],
    ["a time that is none", "closeTimeout", { closeTimeout: -1 }],
    ["an op that is none", "op", { name: "" }],
    ["a signal for all tasks", "signal", { defaults: { signal: AbortSignal.abort() } }],
    ["an endpoint beside a mesh", "endpoint", { endpoint: "tcp://localhost:1" }],
  ] as const) {
    it(`is not made with ${what}`, () => {
      assert.throws(
        () => poolOf(options as unknown as PoolOptions),
        (error) => {
          assert.ok(error instanceof InvalidRequestError, String(error));
          assert.equal(error.details.field, field);
          return true;
        },
      );
    });
  }

  for (const [what, field, task, options] of [
    ["a task that is none", "task", 5, {}],
    ["a task without a payload", "task", { op: "echo" }, {}],
    ["a task with more than that", "lane", { op: "echo", payload: 1, lane: "bulk" }, {}],
    ["a task without an op", "op", { payload: 1 }, {}],
    ["a task whose op is too long", "op", { op: "x".repeat(65), payload: 1 }, {}],
    ["a task whose op is no text", "op", { op: 5, payload: 1 }, {}],
    ["a payload that cannot be sent", "body", { op: "echo", payload: Symbol("x") }, {}],
    ["a file", "filename", TASK, { filename: "worker.js" }],
    ["a lane that there is not", "lane", TASK, { lane: "fast" }],
    ["a signal that is none", "signal", TASK, { signal: {} }],
    ["a timeout of 0", "timeoutMs", TASK, { timeoutMs: 0 }],
  ] as const) {
    it(`refuses ${what}`, async () => {
      const refused = poolOf().run(task as unknown as PoolTask, options as unknown as Anything);
      await assert.rejects(refused, (error) => {
        assert.ok(error instanceof InvalidRequestError, String(error));
        assert.equal(error.details.field, field);
        return true;
      });
      await turn();
      assert.deepEqual(sent(), []);
    });
  }

  it("has an endpoint of its own checked, and tells the tasks", async () => {
    const pool = createPool({ endpoint: "http://nowhere" });
    await assert.rejects(pool.run(TASK), (error: MeshError) => error.details.field === "endpoint");
    await pool.close();
  });
});

async function destroyed(pool: Pool, results: readonly Promise<unknown>[]): Promise<void> {
  const ended = Promise.allSettled(results);
  await pool.destroy();
  for (const result of await ended) {
    assert.equal(result.status, "rejected");
    assert.match(String(result.reason), /pool is closed|wait in this pool/);
  }
}
