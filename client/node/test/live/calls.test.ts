import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { getEventListeners } from "node:events";

import {
  CancelledError,
  DeadlineExceededError,
  EngineError,
  MeshError,
  NoWorkerError,
  ProtocolError,
  Tensor,
} from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS, until } from "./mesh.js";

describe("calls of a live mesh", { timeout: 4 * PATIENCE_MS }, () => {
  let live: LiveMesh;
  let mesh: Mesh;

  before(async () => {
    live = new LiveMesh();
    live.serve("echo", "mine:Ticker", "mine:Vectors");
    mesh = await live.ready("echo", "tick", "embed");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("return what they were given", async () => {
    const payload = { text: "é", list: [1, 2.5, -0, null, true], bytes: new Uint8Array([1, 2]) };
    assert.deepEqual(await mesh.call("echo", payload, { lane: "interactive", affinity: "here" }), payload);
  });

  it("carry tensors beside the body, whose memory the caller may change at once", async () => {
    const values = Float32Array.of(1, 2, 3, 4);
    const answer = mesh.call("echo", { values: Tensor.from(values, [2, 2]) }, { cache: false });
    values.fill(0);
    const { values: back } = (await answer) as { values: Tensor };
    assert.deepEqual([2, 2], back.shape);
    assert.deepEqual(Float32Array.of(1, 2, 3, 4), back.toFloat32());
  });

  it("run 64 at a time and keep each answer with its call", async () => {
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    const rest = numbers.values();
    const answers: unknown[] = [];
    const caller = async (): Promise<void> => {
      for (const number of rest) {
        answers[number] = await mesh.call("echo", number, { cache: false });
      }
    };
    await Promise.all(Array.from({ length: 64 }, caller));
    assert.deepEqual(numbers, answers);
  });

  it("wait in the client when more than 64 are begun at once", async () => {
    const numbers = Array.from({ length: 500 }, (_, index) => index);
    assert.deepEqual(numbers, await Promise.all(numbers.map((number) => mesh.call("echo", number, { cache: false }))));
  });

  it("take bodies of many megabytes both ways", async () => {
    const text = "ü".repeat(5_000_000);
    assert.equal(await mesh.call("echo", text), text);
  });

  it("fail with the class of their code, and the stack of the caller", async () => {
    const error = await thrownBy(async function askedHere() {
      await mesh.call("fail", "raise");
    });
    assert.ok(error instanceof EngineError);
    assert.equal("ENGINE_ERROR", error.code);
    assert.match(error.stack ?? "", /askedHere/);
  });

  it("are refused at once where nobody serves the op", async () => {
    const error = await thrownBy(() => mesh.call("nobody.serves", 1));
    assert.ok(error instanceof NoWorkerError);
    assert.equal(false, error.retryable);
  });

  it("end at their deadline", async () => {
    // On a machine that is held up, a short time is over before the worker has begun.
    for (let timeoutMs = 100; !live.said().includes("begin deadline"); timeoutMs *= 4) {
      const error = await thrownBy(() => mesh.call("hang", "deadline", { timeoutMs }));
      assert.ok(error instanceof DeadlineExceededError);
    }
    await until("the worker was told", () => live.said().includes("cancel deadline"));
  });

  it("end when their signal aborts, are cancelled at the worker, and leave no listener", async () => {
    const ender = new AbortController();
    const ended = Promise.all(
      ["a", "b"].map((name) => thrownBy(() => mesh.call("hang", name, { signal: ender.signal }))),
    );
    await until("both began", () => live.said().includes("begin a") && live.said().includes("begin b"));
    assert.equal(1, getEventListeners(ender.signal, "abort").length);
    ender.abort(new Error("enough"));
    for (const error of await ended) {
      assert.ok(error instanceof CancelledError);
      assert.equal("enough", (error.cause as Error).message);
    }
    assert.equal(0, getEventListeners(ender.signal, "abort").length);
    await until("both were cancelled", () => live.said().includes("cancel a") && live.said().includes("cancel b"));
  });

  it("leave no listener on a signal that never aborts", async () => {
    const { signal } = new AbortController();
    await Promise.all(Array.from({ length: 40 }, () => mesh.call("echo", 1, { signal })));
    for await (const item of mesh.stream("echo", [1, 2], { signal })) {
      assert.ok(item);
    }
    assert.equal(0, getEventListeners(signal, "abort").length);
  });

  it("embed texts as rows over one buffer, in several requests if there are many", async () => {
    const [vector] = await mesh.embed("four");
    assert.deepEqual(Float32Array.of(4, 4, 4), vector);
    const few = await mesh.embed(["a", "bc"], { normalize: true });
    assert.equal(few.rows[0]?.buffer, few.rows[1]?.buffer);
    const texts = Array.from({ length: 100 }, (_, index) => "x".repeat(index === 50 ? 1001 : index + 1));
    const many = await mesh.embed(texts);
    assert.deepEqual(
      texts.map((text) => text.length),
      many.rows.map((row) => row[0]),
    );
    assert.deepEqual([50, 100, 3], [many.truncated[0], many.length, many.dimension]);
  });

  it("refuse what is no result of embed, without harm to other calls", async () => {
    const wrong = thrownBy(() => mesh.embed("odd"));
    assert.equal(1, await mesh.call("echo", 1));
    assert.ok((await wrong) instanceof ProtocolError);
  });

  it("tell the state of the mesh, and which ops lack a worker", async () => {
    const status = await mesh.status();
    assert.deepEqual(["echo", "ticker", "vectors"], status.workers.map(({ name }) => name).sort());
    const waited = (timeoutMs: number): Promise<MeshError> =>
      thrownBy(() => mesh.ready({ ops: ["echo", "sing"], timeoutMs }));
    let error = await waited(200);
    if (error instanceof DeadlineExceededError) {
      error = await waited(10_000); // The machine was held up for so long that the broker could not say a word.
    }
    assert.ok(error instanceof NoWorkerError, String(error));
    assert.match(error.message, /sing/);
  });
});

async function thrownBy(act: () => Promise<unknown>): Promise<MeshError> {
  try {
    await act();
  } catch (error) {
    assert.ok(error instanceof MeshError, String(error));
    return error;
  }
  assert.fail("nothing was thrown");
}
