import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { CancelledError, connect, InvalidRequestError, MeshError, TooLargeError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { FakeMesh, turn } from "./fake.js";

type Act = (mesh: Mesh) => unknown;
type AnyOptions = Record<string, unknown>;

/** Options as a program without types may give them. */
function call(options: AnyOptions): Act {
  return (mesh) => mesh.call("echo", 1, options);
}

function detached(): Float32Array {
  const values = new Float32Array(4);
  structuredClone(values.buffer, { transfer: [values.buffer] });
  return values;
}

const REFUSED: readonly (readonly [what: string, field: string, act: Act])[] = [
  ["a timeout of 0", "timeoutMs", call({ timeoutMs: 0 })],
  ["a negative timeout", "timeoutMs", call({ timeoutMs: -1 })],
  ["a timeout without end", "timeoutMs", call({ timeoutMs: Infinity })],
  ["a timeout that is not a number", "timeoutMs", call({ timeoutMs: NaN })],
  ["a timeout of more than a week", "timeoutMs", call({ timeoutMs: 7 * 24 * 3600 * 1000 + 1 })],
  ["a timeout as text", "timeoutMs", call({ timeoutMs: "1000" })],
  ["a timeout as a bigint", "timeoutMs", call({ timeoutMs: 1000n })],
  ["an option that there is not", "timeout", call({ timeout: 1000 })],
  ["no options", "options", (mesh) => mesh.call("echo", 1, null as unknown as AnyOptions)],
  ["an unknown lane", "lane", call({ lane: "fast" })],
  ["a lane that objects inherit", "lane", call({ lane: "toString" })],
  ["a model with a lone surrogate", "model", call({ model: "a\ud800" })],
  ["a model that is too long", "model", call({ model: "m".repeat(201) })],
  ["a switch that is no boolean", "atMostOnce", call({ atMostOnce: 1 })],
  ["a signal that is none", "signal", call({ signal: {} })],
  ["an affinity that is no key", "affinity", call({ affinity: 5 })],
  ["a traceparent that is too long", "traceparent", call({ traceparent: "0".repeat(65) })],
  ["an empty op", "op", (mesh) => mesh.call("", 1)],
  ["an op that is no string", "op", (mesh) => mesh.call(5 as unknown as string, 1)],
  ["a payload of undefined", "body", (mesh) => mesh.call("echo", undefined)],
  ["a function in the payload", "body.f", (mesh) => mesh.call("echo", { f: () => 1 })],
  ["a bigint of more than 64 bits", "body", (mesh) => mesh.call("echo", 2n ** 64n)],
  ["a lone surrogate in the payload", "body[0]", (mesh) => mesh.call("echo", ["\udc00"])],
  ["a detached buffer", "body.v", (mesh) => mesh.call("echo", { v: detached() })],
  ["no texts", "texts", (mesh) => mesh.embed([])],
  ["texts that are none", "texts", (mesh) => mesh.embed(5 as unknown as string)],
  ["an empty text", "texts", (mesh) => mesh.embed(["a", ""])],
  ["a text with a lone surrogate", "texts", (mesh) => mesh.embed(["a", "\ud800"])],
  ["a window of 0", "window", (mesh) => mesh.stream("echo", 1, { window: 0 })],
  ["a window that is not whole", "window", (mesh) => mesh.generate("a", { window: 1.5 })],
  ["sampling that there is not", "max_tokens", (mesh) => mesh.generate("a", { max_tokens: 5 } as AnyOptions)],
  ["tools for generate", "tools", (mesh) => mesh.generate("a", { tools: [] } as AnyOptions)],
  ["no ops to wait for", "ops", (mesh) => mesh.ready({ ops: [] })],
  ["a drain without end", "drainMs", (mesh) => mesh.close({ drainMs: Infinity })],
];

async function refusalOf(act: () => unknown): Promise<MeshError> {
  try {
    await act();
  } catch (error) {
    assert.ok(error instanceof MeshError, String(error));
    return error;
  }
  assert.fail("it was not refused");
}

describe("what cannot be sent", () => {
  for (const [what, field, act] of REFUSED) {
    it(`is refused at the call: ${what}`, async () => {
      const fake = new FakeMesh();
      await turn();
      const error = await refusalOf(() => act(fake.mesh));
      assert.ok(error instanceof InvalidRequestError, error.message);
      assert.equal(field, error.details.field);
      await turn();
      assert.deepEqual(["Hello"], fake.transport.types());
      await fake.mesh.close();
    });
  }

  it("is refused at the call: more than a message takes", async () => {
    const fake = new FakeMesh();
    const error = await refusalOf(() => fake.mesh.call("echo", new Float32Array(17_000_000)));
    assert.ok(error instanceof TooLargeError);
    await turn();
    assert.deepEqual(["Hello"], fake.transport.types());
    await fake.mesh.close();
  });

  it("is refused as the promise that was asked for, and by an exception where there is none", async () => {
    const fake = new FakeMesh();
    const refused = fake.mesh.call("", 1);
    await assert.rejects(refused, InvalidRequestError);
    assert.throws(() => fake.mesh.stream("", 1), InvalidRequestError);
    await fake.mesh.close();
  });
});

describe("a signal that has aborted", () => {
  const calls: readonly (readonly [string, (mesh: Mesh, signal: AbortSignal) => unknown])[] = [
    ["call", (mesh, signal) => mesh.call("echo", 1, { signal })],
    ["embed", (mesh, signal) => mesh.embed("a", { signal })],
    ["embed of many", (mesh, signal) => mesh.embed(Array(40).fill("a") as string[], { signal })],
    ["stream", (mesh, signal) => mesh.stream("echo", 1, { signal })],
    ["generate", (mesh, signal) => mesh.generate("a", { signal })],
    ["chat", (mesh, signal) => mesh.chat([{ role: "user", content: "a" }], { signal })],
    ["status", (mesh, signal) => mesh.status({ signal })],
    ["ready", (mesh, signal) => mesh.ready({ ops: "echo", signal })],
  ];
  for (const [name, act] of calls) {
    it(`ends ${name} at the call, with its reason as the cause`, async () => {
      const fake = new FakeMesh();
      await turn();
      const error = await refusalOf(() => act(fake.mesh, AbortSignal.abort("why")));
      assert.ok(error instanceof CancelledError);
      assert.equal("why", error.cause);
      await turn();
      assert.deepEqual(["Hello"], fake.transport.types());
      await fake.mesh.close();
    });
  }

  it("ends a stream that has not begun when it aborts later", async () => {
    const fake = new FakeMesh();
    const ender = new AbortController();
    const stream = fake.mesh.stream("echo", 1, { signal: ender.signal });
    ender.abort();
    await assert.rejects(stream.next(), CancelledError);
    await assert.rejects(stream.next(), CancelledError);
    assert.deepEqual([], fake.transport.requests());
    await fake.mesh.close();
  });
});

describe("a closed client", () => {
  const uses: readonly (readonly [string, Act])[] = [
    ["call", (mesh) => mesh.call("echo", 1)],
    ["embed", (mesh) => mesh.embed("a")],
    ["stream", (mesh) => mesh.stream("echo", 1)],
    ["generate", (mesh) => mesh.generate("a")],
    ["status", (mesh) => mesh.status()],
    ["ready", (mesh) => mesh.ready({ ops: "echo" })],
  ];
  for (const [name, act] of uses) {
    it(`refuses ${name}`, async () => {
      const fake = new FakeMesh();
      await fake.mesh.close();
      const error = await refusalOf(() => act(fake.mesh));
      assert.ok(error instanceof CancelledError);
      assert.match(error.message, /closed/);
      assert.equal(1, fake.transports.length);
    });
  }
});

describe("connect", () => {
  const refused: readonly (readonly [string, AnyOptions])[] = [
    ["endpoint", { endpoint: "http://localhost:1" }],
    ["endpoint", { endpoint: "ipc://" }],
    ["endpoint", { endpoint: `ipc:///${"a".repeat(103)}` }],
    ["endpoint", { endpoint: "tcp://localhost" }],
    ["endpoint", { endpoint: "tcp://localhost:0" }],
    ["endpoint", { endpoint: "tcp://a b:80" }],
    ["endpoint", { endpoint: 5 }],
    ["name", { name: "" }],
    ["name", { name: "n".repeat(65) }],
    ["keys", { endpoint: "ipc:///tmp/x", keys: "client.key" }],
    ["keys", { endpoint: "tcp://localhost:1", keys: "/nonexistent/client.key" }],
    ["url", { url: "tcp://localhost:1" }],
  ];
  for (const [field, options] of refused) {
    it(`refuses ${JSON.stringify(options).slice(0, 60)}`, async () => {
      const error = await refusalOf(() => connect(options));
      assert.ok(error instanceof InvalidRequestError);
      assert.equal(field, error.details.field);
    });
  }
});
