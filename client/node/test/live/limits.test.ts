/** What a mesh refuses, and what it does to a reader that is too slow or a request that kills: told, and harmless. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { OverloadedError, PoisonRequestError, SlowConsumerError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS, until } from "./mesh.js";

/** Little enough to be overrun by one client: one computes, one is with the worker ahead of time, so many wait. */
const QUEUE = 4;

describe("limits of a live mesh", { timeout: 6 * PATIENCE_MS }, () => {
  let live: LiveMesh;
  let mesh: Mesh;

  before(async () => {
    live = new LiveMesh({ MLX_MESH_BROKER_QUEUE_MAX_REQUESTS: String(QUEUE), MLX_MESH_BROKER_CREDIT_S: "2.5" });
    live.broker("--metrics-port", "0");
    live.worker("echo", "echo");
    live.worker("mine:Vectors", "naps");
    live.worker("mine:Ticker", "ticker");
    for (const name of ["a", "b", "c"]) {
      live.worker("trial:Trial", name);
    }
    mesh = await live.ready("echo", "nap", "tick", "digest");
    while ((await mesh.status()).workers.filter(({ state }) => state === "ready").length < 6) {
      await sleep(50);
    }
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("a call that is refused for overload is tried again, and succeeds", async () => {
    // The pauses before a retry go by the broker's pace so far.
    for (let call = 0; call < 20; call++) {
      await mesh.call("nap", 0.001);
    }
    // One is too many while the first naps: more would use up the client's budget on a machine that is held up.
    const seconds = [0.3, ...Array.from({ length: QUEUE + 2 }, (_, index) => 0.01 + index / 10_000)];
    const answers = seconds.map((each) => mesh.call("nap", each, { timeoutMs: PATIENCE_MS, atMostOnce: true }));
    assert.deepEqual(seconds, await Promise.all(answers));
    assert.ok((await refusals()) > 0, "the broker was never full");
  });

  it("a burst of far too many is answered or refused, each call once, and the refusal says when to come back", async () => {
    const clients = await Promise.all(Array.from({ length: 4 }, () => live.client()));
    const before = await refusals();
    const asked = Array.from({ length: 200 }, (_, index) => 0.002 + index / 1e6);
    const calls = Promise.allSettled(
      asked.map((each, index) => {
        const client = clients[index % clients.length] ?? mesh;
        return client.call("nap", each, { timeoutMs: PATIENCE_MS, atMostOnce: true, lane: "bulk" });
      }),
    );
    // Others are served meanwhile.
    assert.equal("beside", await mesh.call("echo", "beside", { timeoutMs: PATIENCE_MS }));
    const ended = await calls;
    ended.forEach((each, index) => {
      if (each.status === "fulfilled") {
        assert.equal(each.value, asked[index]);
      } else {
        assert.ok(each.reason instanceof OverloadedError, String(each.reason));
        assert.ok(each.reason.retryable && each.reason.retryAfterMs > 0);
      }
    });
    const answered = ended.filter(({ status }) => status === "fulfilled").length;
    assert.ok(answered >= QUEUE && answered < asked.length, `${answered} were answered`);
    assert.ok((await refusals()) - before >= asked.length - answered);
    assert.equal(0.001, await mesh.call("nap", 0.001, { timeoutMs: PATIENCE_MS }));
  });

  it("a reader that takes nothing for too long is told so, and holds up nobody", async () => {
    const stream = mesh.stream("tick", "never read", { window: 8, timeoutMs: PATIENCE_MS });
    const [first, beside] = [await stream.next(), mesh.stream("tick", "read", { window: 8 })];
    assert.equal(0, first.value);
    await until("the worker was told", () => live.said().includes("cancel never read"));
    assert.equal(0, (await beside.next()).value);
    // What came before is there still, and no more than the window.
    const rest: unknown[] = [];
    await assert.rejects(async () => {
      for await (const count of stream) {
        rest.push(count);
      }
    }, SlowConsumerError);
    assert.deepEqual(
      rest,
      Array.from({ length: rest.length }, (_, index) => index + 1),
    );
    assert.ok(rest.length <= 8, `${rest.length} chunks were kept`);
    assert.equal(1, (await beside.next()).value);
    await beside.return();
  });

  it("a reader that is slow but reads gets every chunk once", async () => {
    const stream = mesh.stream("tick", "slowly", { window: 4, timeoutMs: PATIENCE_MS });
    const read: unknown[] = [];
    for await (const count of stream) {
      read.push(count);
      await sleep(80);
      if (read.length === 34) {
        break;
      }
    }
    assert.deepEqual(
      read,
      Array.from({ length: 34 }, (_, index) => index),
    );
  });

  it("a request that kills two workers gets no third, and its neighbours are answered", async () => {
    const bodies = ["a", "b", "die", "c", "d"].map((text) => [text, Buffer.from(text)]);
    const ended = await Promise.allSettled(
      bodies.map((body) => mesh.call("digest", body, { timeoutMs: PATIENCE_MS, cache: false })),
    );
    const [poison] = ended.splice(2, 1);
    assert.ok(poison?.status === "rejected" && poison.reason instanceof PoisonRequestError);
    assert.deepEqual(
      ["a", "b", "c", "d"],
      ended.map((each) => each.status === "fulfilled" && (each.value as unknown[])[0]),
    );
    await assert.rejects(mesh.call("digest", bodies[2], { timeoutMs: PATIENCE_MS }), PoisonRequestError);
    const left = async (): Promise<string[]> => {
      const trials = (await mesh.status()).workers.filter(({ name }) => ["a", "b", "c"].includes(name));
      return trials.map(({ state }) => state);
    };
    while ((await left()).join() === "suspect") {
      await sleep(50); // It was held up, as the machine was.
    }
    assert.deepEqual(["ready"], await left());
  });

  /** How often the broker has refused a request for overload. */
  async function refusals(): Promise<number> {
    const [, url = ""] = /metrics_on.* url=(\S+)/.exec(live.log("broker")) ?? [];
    const text = await (await fetch(url)).text();
    const counts = text.matchAll(/^mlx_mesh_requests_total\{.*outcome="OVERLOADED".*\} (\S+)$/gm);
    return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
  }
});
