import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CancelledError, createPool, OverloadedError } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS, until } from "../live/mesh.js";

describe("a pool over a live mesh", { timeout: 4 * PATIENCE_MS }, () => {
  let live: LiveMesh;

  before(async () => {
    live = new LiveMesh();
    live.serve("echo", "mine:Ticker", "mine:Vectors");
    await live.ready("echo", "hang", "nap");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("answers thousands of tasks, each with its own result", async () => {
    const pool = createPool<number, number>({ endpoint: live.endpoint, name: "echo", maxQueue: 3000 });
    const numbers = Array.from({ length: 3000 }, (_, index) => index);
    assert.deepEqual(await Promise.all(numbers.map((payload) => pool.run({ payload }, { cache: false }))), numbers);
    assert.equal(pool.completed, 3000);
    assert.ok(pool.utilization > 0 && pool.utilization <= 1, String(pool.utilization));
    await pool.close();
    await assert.rejects(pool.run({ payload: 1 }), CancelledError);
  });

  it("tells running from waiting where one worker computes one task after another", async () => {
    const pool = createPool({ endpoint: live.endpoint, name: "nap" });
    const naps = [0.101, 0.102, 0.103, 0.104].map((payload) => pool.run({ payload }));
    await Promise.all(naps);
    const { runTime, waitTime } = pool.histogram;
    assert.ok(runTime.min >= 95, JSON.stringify(runTime));
    assert.ok(waitTime.max >= 90, JSON.stringify(waitTime));
    await pool.close();
  });

  it("ends the work of an aborted task in the worker; one that waits never gets there", async () => {
    await using pool = createPool({ mesh: await live.client(), name: "hang", concurrentTasks: 1 });
    const ender = new AbortController();
    const { signal } = ender;
    const tasks = ["runs", "waits"].map((payload) => pool.run({ payload }, { signal }));
    await until("one began", () => live.said().includes("begin runs"));
    ender.abort();
    for (const task of tasks) {
      await assert.rejects(task, CancelledError);
    }
    await until("it was cancelled", () => live.said().includes("cancel runs"));
    assert.ok(!live.said().includes("begin waits"));
  });

  it("ends its work in the workers when it is destroyed", async () => {
    const pool = createPool({ endpoint: live.endpoint, name: "hang" });
    const tasks = Promise.allSettled([pool.run({ payload: "one" }), pool.run({ payload: "two" })]);
    await until("both began", () => live.said().includes("begin one") && live.said().includes("begin two"));
    await pool.destroy();
    assert.deepEqual(
      (await tasks).map(({ status }) => status),
      ["rejected", "rejected"],
    );
    await until("both ended", () => live.said().includes("cancel one") && live.said().includes("cancel two"));
  });

  it("bears a producer that heeds it, however much that has", async () => {
    const pool = createPool({ endpoint: live.endpoint, name: "echo", concurrentTasks: 4, maxQueue: 1 });
    const results: Promise<unknown>[] = [];
    for (let payload = 0; payload < 200; payload++) {
      if (pool.needsDrain) {
        await new Promise<void>((resolve) => pool.once("drain", resolve));
      }
      results.push(pool.run({ payload }, { cache: false }));
      await sleep(0);
    }
    assert.equal((await Promise.all(results)).length, 200);
    const heedless = Array.from({ length: 6 }, (_, payload) => pool.run({ payload }, { cache: false }));
    const refused = (await Promise.allSettled(heedless)).filter(({ status }) => status === "rejected");
    assert.ok(refused.length === 1 && (refused[0] as PromiseRejectedResult).reason instanceof OverloadedError);
    await pool.close();
  });
});
