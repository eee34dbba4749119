import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CancelledError, Generation, NoWorkerError, ProtocolError } from "../../src/index.js";
import type { Mesh, MeshEvent, TextChunk } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS, until } from "./mesh.js";

describe("streams of a live mesh", { timeout: 4 * PATIENCE_MS }, () => {
  let live: LiveMesh;
  let mesh: Mesh;

  before(async () => {
    live = new LiveMesh();
    live.serve("echo", "mine:Ticker", "mine:Teller");
    mesh = await live.ready("echo", "tick", "generate");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("give every chunk in order, and then the result", async () => {
    const items = Array.from({ length: 300 }, (_, index) => index);
    const stream = mesh.stream("echo", items, { window: 7 });
    const final = stream.final;
    assert.deepEqual(items, await all(stream));
    assert.deepEqual(items, stream.result);
    assert.deepEqual(items, await final);
  });

  it("run many side by side", async () => {
    const lists = Array.from({ length: 50 }, (_, index) => Array.from({ length: 30 }, (_, item) => index * 100 + item));
    assert.deepEqual(lists, await Promise.all(lists.map((list) => all(mesh.stream("echo", list)))));
  });

  it("are cancelled at the worker when the loop is left, and say so", async () => {
    const stream = mesh.stream("tick", "left");
    for await (const count of stream) {
      if (count === 20) {
        break;
      }
    }
    assert.ok(stream.left);
    assert.deepEqual({ value: undefined, done: true }, await stream.next());
    await assert.rejects(stream.final, CancelledError);
    await until("the worker was told", () => live.said().includes("cancel left"));
  });

  it("are cancelled at the worker when the signal aborts in the middle", async () => {
    const ender = new AbortController();
    const stream = mesh.stream("tick", "aborted", { signal: ender.signal });
    await assert.rejects(async () => {
      for await (const count of stream) {
        if (count === 20) {
          ender.abort("enough");
        }
      }
    }, CancelledError);
    await until("the worker was told", () => live.said().includes("cancel aborted"));
  });

  it("let the worker wait for a reader that is slow, who is told of", async () => {
    const slow: MeshEvent[] = [];
    const watching = (async () => {
      for await (const event of mesh.events()) {
        if (event.type === "slow") {
          slow.push(event);
          break;
        }
      }
    })();
    const stream = mesh.stream("tick", "slow", { window: 4 });
    const counts = [(await stream.next()).value];
    while (slow.length === 0) {
      await sleep(1500); // On a busy machine the chunks may come so late that the reader was not slow this time.
      for (let chunk = 0; chunk < 3; chunk++) {
        counts.push((await stream.next()).value);
      }
      await new Promise(setImmediate);
    }
    await stream.return();
    await watching;
    assert.deepEqual(
      counts.map((_, index) => index),
      counts,
    );
    const [told] = slow;
    assert.ok(told?.type === "slow" && told.op === "tick" && told.waitedMs >= 1000);
  });

  it("fail where nobody serves the op, each time they are asked", async () => {
    const stream = mesh.stream("nobody.serves", 1);
    await assert.rejects(stream.next(), NoWorkerError);
    await assert.rejects(stream.next(), NoWorkerError);
    await assert.rejects(stream.final, NoWorkerError);
  });

  it("are thrown away where only the result is asked for", async () => {
    const items = Array.from({ length: 100 }, (_, index) => index);
    assert.deepEqual(items, await mesh.stream("echo", items, { window: 2 }).final);
  });

  it("take several readers at once, each chunk going to one of them", async () => {
    const stream = mesh.stream("echo", [1, 2, 3]);
    const results = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()]);
    assert.deepEqual(
      [1, 2, 3, undefined],
      results.map(({ value }) => value),
    );
  });

  it("give text piece by piece, with how it ended", async () => {
    const generation = mesh.generate("Once", { maxTokens: 7, temperature: 0.5, stop: ["x"] });
    const chunks: TextChunk[] = await all(generation);
    assert.deepEqual(
      [0, 1, 2, 3, 4, 5, 6],
      chunks.flatMap(({ tokens }) => tokens),
    );
    const { finishReason, usage, model } = await generation.final;
    assert.deepEqual(["length", 7, 0, "counting"], [finishReason, usage.completion, usage.moved, model]);
    const asked = live.said().find((line) => line.startsWith("asked")) ?? "";
    assert.match(asked, /'max_tokens', 'prompt', 'seed', 'stop', 'temperature'/);
  });

  it("give text as a whole, of a chat too", async () => {
    const chat = mesh.chat([{ role: "user", content: "Hello" }], { maxTokens: 4 });
    assert.equal("0 1 2 3 ", await chat.text());
    assert.equal("length", (await chat.final).finishReason);
  });

  it("tell of a text that was left", async () => {
    const generation = mesh.generate("Once", { maxTokens: 100_000 });
    for await (const { tokens } of generation) {
      if (tokens.includes(10)) {
        break;
      }
    }
    const { finishReason, usage } = await generation.final;
    assert.equal("cancelled", finishReason);
    assert.ok((usage.completion ?? 0) >= 11);
  });

  it("refuse what is no text", async () => {
    await assert.rejects(new Generation(mesh.stream("echo", [5])).text(), ProtocolError);
  });
});

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) {
    items.push(item);
  }
  return items;
}
