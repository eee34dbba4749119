/** What cannot be sent is refused at the call with a typed error, and no byte of it reaches a socket. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";

import { CancelledError, connect, InvalidRequestError, MeshError, Tensor, TooLargeError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { Impostor } from "./impostor.js";

const MEGABYTE = 1024 * 1024;

/** A call as a program without types may make it. */
type Act = (mesh: Mesh) => unknown;
type Refusal = readonly [what: string, field: string, act: Act, kind?: typeof MeshError];

/** Options as a program without types may give them. */
function options(given: unknown): never {
  return given as never;
}

function payload(value: unknown): Act {
  return (mesh) => mesh.call("echo", value);
}

function detached<T extends ArrayBufferView>(view: T): T {
  structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] });
  return view;
}

function cyclic(): unknown {
  const value: Record<string, unknown> = {};
  value.self = value;
  return value;
}

const TIMES: readonly unknown[] = [
  0,
  -0,
  -1,
  NaN,
  Infinity,
  -Infinity,
  1e308,
  "1000",
  1000n,
  true,
  {},
  [5],
  Symbol("s"),
];

/** Every way to say how long something may take. */
const TIMED: readonly (readonly [name: string, act: (mesh: Mesh, timeoutMs: never) => unknown])[] = [
  ["call", (mesh, timeoutMs) => mesh.call("echo", 1, { timeoutMs })],
  ["embed", (mesh, timeoutMs) => mesh.embed("a", { timeoutMs })],
  ["embed of many", (mesh, timeoutMs) => mesh.embed(Array<string>(100).fill("a"), { timeoutMs })],
  ["stream", (mesh, timeoutMs) => mesh.stream("echo", [1], { timeoutMs })],
  ["generate", (mesh, timeoutMs) => mesh.generate("a", { timeoutMs })],
  ["chat", (mesh, timeoutMs) => mesh.chat([{ role: "user", content: "a" }], { timeoutMs })],
  ["status", (mesh, timeoutMs) => mesh.status({ timeoutMs })],
  ["ready", (mesh, timeoutMs) => mesh.ready({ ops: "echo", timeoutMs })],
];

const REFUSED: readonly Refusal[] = [
  ...TIMED.flatMap(([name, act]) =>
    TIMES.map((given): Refusal => [
      `${name} within ${String(given)}`,
      "timeoutMs",
      (mesh) => act(mesh, options(given)),
    ]),
  ),
  ...[NaN, Infinity, -1, "0"].map((given): Refusal => [
    `close within ${given}`,
    "drainMs",
    (mesh) => mesh.close({ drainMs: options(given) }),
  ]),
  ["an op of 10 MB", "op", (mesh) => mesh.call("o".repeat(10 * MEGABYTE), 1)],
  ["an op with a lone surrogate", "op", (mesh) => mesh.call("a\udfff", 1)],
  ["an op that only looks like a string", "op", (mesh) => mesh.call(options(new String("echo")), 1)],
  ["a model of 10 MB", "model", (mesh) => mesh.call("echo", 1, { model: "m".repeat(10 * MEGABYTE) })],
  ["a model that is null", "model", (mesh) => mesh.call("echo", 1, { model: options(7) })],
  ["a traceparent of 10 MB", "traceparent", (mesh) => mesh.call("echo", 1, { traceparent: "0".repeat(10 * MEGABYTE) })],
  ["a lone surrogate in a traceparent", "traceparent", (mesh) => mesh.call("echo", 1, { traceparent: "\ud800" })],
  ["a lane in capitals", "lane", (mesh) => mesh.call("echo", 1, { lane: options("BULK") })],
  ["a lane by number", "lane", (mesh) => mesh.call("echo", 1, { lane: options(0) })],
  ["options that are a string", "options", (mesh) => mesh.call("echo", 1, options("bulk"))],
  ["options that are a number", "options", (mesh) => mesh.stream("echo", 1, options(5))],
  [
    "a signal that is an event target",
    "signal",
    (mesh) => mesh.call("echo", 1, { signal: options(new EventTarget()) }),
  ],
  ["an affinity that is a plain array", "affinity", (mesh) => mesh.call("echo", 1, { affinity: options([1, 2]) })],
  [
    "an affinity that is detached",
    "affinity",
    (mesh) => mesh.call("echo", 1, { affinity: detached(new Uint8Array(8)) }),
  ],
  ["a window beyond what is granted", "window", (mesh) => mesh.stream("echo", 1, { window: 1025 })],
  ["a window that is NaN", "window", (mesh) => mesh.stream("echo", 1, { window: NaN })],

  ["a symbol", "body", payload(Symbol("s"))],
  ["a Map", "body", payload(new Map())],
  ["a Set in an array", "body[1]", payload([1, new Set()])],
  ["a Date", "body.at", payload({ at: new Date() })],
  ["a promise that was not awaited", "body", payload(Promise.resolve(1))],
  [
    "an instance of a class",
    "body.p",
    payload({
      p: new (class Point {
        readonly x = 1;
      })(),
    }),
  ],
  ["undefined in an array", "body[0]", payload([undefined])],
  ["an array of holes", "body[0]", payload(new Array(3))],
  ["an array of billions of them", "body", payload(new Array(2 ** 32 - 1)), TooLargeError],
  ["an integer above 64 bits", "body", payload(2n ** 64n)],
  ["an integer below 64 bits", "body.n", payload({ n: -(2n ** 63n) - 1n })],
  ["a lone surrogate in a key", "body.a\ud800", payload({ "a\ud800": 1 })],
  ["a lone surrogate at the end of 10 MB", "body.text", payload({ text: "x".repeat(10 * MEGABYTE) + "\ud800" })],
  ["a detached Uint8Array", "body", payload(detached(new Uint8Array(8)))],
  ["a detached Float64Array deep inside", "body.a[0].b", payload({ a: [{ b: detached(new Float64Array(8)) }] })],
  ["a tensor over memory that is gone", "body", payload(gone())],
  ["a DataView", "body", payload(new DataView(new ArrayBuffer(8)))],
  ["an ArrayBuffer", "body", payload(new ArrayBuffer(8))],
  ["a getter that throws", "body", payload(Object.defineProperty({}, "x", { enumerable: true, get: thrower }))],
  ["a proxy that throws", "body", payload(new Proxy({}, { ownKeys: thrower }))],
  ["what holds itself", `body${".self".repeat(32)}`, payload(cyclic()), TooLargeError],
  ["seven tensors", "body[6]", payload(Array.from({ length: 7 }, () => new Float32Array(1))), TooLargeError],
  ["64 MB of text", "body", payload("x".repeat(64 * MEGABYTE)), TooLargeError],
  ["64 MB of floats", "body", payload(new Float32Array(16 * MEGABYTE)), TooLargeError],

  ["no text", "texts", (mesh) => mesh.embed("")],
  ["a text that is no string", "texts", (mesh) => mesh.embed(options(["a", 5]))],
  ["texts that are a promise", "texts", (mesh) => mesh.embed(options(Promise.resolve(["a"])))],
  ["a text of 10 MB with half a pair", "texts", (mesh) => mesh.embed("x".repeat(10 * MEGABYTE) + "\udc00")],
  ["a prompt that is a number", "prompt", (mesh) => mesh.generate(options(5))],
  ["a prompt of tokens that are none", "prompt", (mesh) => mesh.generate([1, -1])],
  ["a prompt with half a pair", "body.prompt", (mesh) => mesh.generate("\ud800")],
  ["a temperature that is NaN", "temperature", (mesh) => mesh.generate("a", { temperature: NaN })],
  ["tokens without end", "maxTokens", (mesh) => mesh.generate("a", { maxTokens: Infinity })],
  ["no messages", "messages", (mesh) => mesh.chat([])],
  ["messages that are none", "messages", (mesh) => mesh.chat(options(["hello"]))],
  ["ops that are none", "ops", (mesh) => mesh.ready({ ops: options(5) })],
];

function thrower(): never {
  throw new Error("it may not be looked at");
}

function gone(): Tensor {
  const values = new Float32Array(8);
  const tensor = Tensor.from(values);
  detached(values);
  return tensor;
}

/** Make a call and return its error, and whether it came before anything else could run. */
async function refusalOf(act: () => unknown): Promise<MeshError> {
  let result: unknown;
  try {
    result = act();
  } catch (error) {
    assert.ok(error instanceof MeshError, String(error));
    return error;
  }
  assert.ok(result instanceof Promise, "what returns no promise has to throw");
  let turned = false;
  setImmediate(() => (turned = true));
  try {
    await result;
  } catch (error) {
    assert.ok(error instanceof MeshError, String(error));
    assert.ok(!turned, "it was not refused at the call");
    return error;
  }
  assert.fail("it was not refused");
}

describe("what cannot be sent", () => {
  let impostor: Impostor;
  let mesh: Mesh;
  let marks = 0;

  before(async () => {
    impostor = await Impostor.start();
    mesh = await connect({ endpoint: impostor.endpoint });
  });

  after(async () => {
    await mesh.close();
    await impostor[Symbol.asyncDispose]();
  });

  beforeEach(() => {
    impostor.heard.length = 0;
  });

  /** Whatever was sent before a call would be there before it. */
  async function nothingWasSent(): Promise<void> {
    const mark = `mark-${++marks}`;
    assert.equal(1, await mesh.call(mark, 1, { timeoutMs: 60_000 }));
    assert.deepEqual(
      [mark],
      impostor.heard.map((message) => (message.type === "Request" ? message.op : message.type)),
    );
  }

  for (const [what, field, act, kind = InvalidRequestError] of REFUSED) {
    it(what, async () => {
      const error = await refusalOf(() => act(mesh));
      assert.ok(error instanceof kind, `${error.name}: ${error.message}`);
      assert.equal(error.details.field, field, error.message);
      assert.ok(error.message.length < 1000);
      await nothingWasSent();
    });
  }

  it("10 MB of text can, though, both ways", async () => {
    const text = "ü".repeat(5 * MEGABYTE);
    assert.equal(await mesh.call("echo", text, { timeoutMs: 60_000 }), text);
  });

  const calls: readonly (readonly [name: string, act: (mesh: Mesh, signal?: AbortSignal) => unknown])[] = [
    ["call", (mesh, signal) => mesh.call("echo", 1, { signal })],
    ["embed", (mesh, signal) => mesh.embed("a", { signal })],
    ["embed of many", (mesh, signal) => mesh.embed(Array<string>(100).fill("a"), { signal })],
    ["stream", (mesh, signal) => mesh.stream("echo", [1], { signal })],
    ["generate", (mesh, signal) => mesh.generate("a", { signal })],
    ["chat", (mesh, signal) => mesh.chat([{ role: "user", content: "a" }], { signal })],
    ["status", (mesh, signal) => mesh.status({ signal })],
    ["ready", (mesh, signal) => mesh.ready({ ops: "echo", signal })],
  ];

  for (const [name, act] of calls) {
    it(`${name} with a signal that has aborted`, async () => {
      for (const signal of [AbortSignal.abort("why"), AbortSignal.abort()]) {
        const error = await refusalOf(() => act(mesh, signal));
        assert.ok(error instanceof CancelledError);
        assert.equal(signal.reason, error.cause);
      }
      await nothingWasSent();
    });

    it(`${name} of a client that is closed`, async () => {
      const closed = await connect({ endpoint: impostor.endpoint });
      await closed.close();
      const error = await refusalOf(() => act(closed));
      assert.ok(error instanceof CancelledError);
      assert.match(error.message, /closed/);
      await nothingWasSent();
    });
  }

  it("a stream whose client was closed before it was read", async () => {
    const closed = await connect({ endpoint: impostor.endpoint });
    const stream = closed.stream("echo", [1]);
    await closed.close();
    await assert.rejects(stream.next(), CancelledError);
    await assert.rejects(stream.final, CancelledError);
    await nothingWasSent();
  });
});
