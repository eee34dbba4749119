/**
 * What the types of the package promise to TypeScript. Nothing in here runs: the compiler is the test, on the sources
 * by `npm run test:types`, and on the declarations of the packed package by `test/package`.
 */

import { CancelledError, connect, ERROR_CLASSES, isErrorCode, MeshError, Tensor } from "mlx-mesh";
import type {
  CallOptions,
  ConnectOptions,
  DeadlineExceededError,
  Dtype,
  Embeddings,
  ErrorCode,
  GenerateResult,
  Generation,
  LaneName,
  Mesh,
  MeshEvent,
  MeshStatus,
  OverloadedError,
  Stream,
  TextChunk,
  WorkerStatus,
} from "mlx-mesh";

/** `true` only if two types are the same, `any` and `unknown` told apart. */
type Same<One, Other> = (<T>() => T extends One ? 1 : 2) extends <T>() => T extends Other ? 1 : 2 ? true : false;

declare function same<One, Other>(told: Same<One, Other>): void;
declare function isOf<Type>(value: Type): void;

declare const mesh: Mesh;
declare const signal: AbortSignal;

export async function results(): Promise<void> {
  same<ReturnType<typeof connect>, Promise<Mesh>>(true);
  same<ReturnType<Mesh["call"]>, Promise<unknown>>(true);
  same<ReturnType<Mesh["embed"]>, Promise<Embeddings>>(true);
  same<ReturnType<Mesh["stream"]>, Stream>(true);
  same<ReturnType<Mesh["generate"]>, Generation>(true);
  same<ReturnType<Mesh["chat"]>, Generation>(true);
  same<ReturnType<Mesh["status"]>, Promise<MeshStatus>>(true);
  same<ReturnType<Mesh["ready"]>, Promise<void>>(true);
  same<ReturnType<Mesh["close"]>, Promise<void>>(true);

  const vectors = await mesh.embed(["a", "b"]);
  same<typeof vectors.rows, readonly Float32Array[]>(true);
  same<typeof vectors.tokens, readonly number[]>(true);
  same<ReturnType<typeof vectors.at>, Float32Array | undefined>(true);
  same<ReturnType<typeof vectors.toJSON>, number[][]>(true);
  for (const row of vectors) {
    isOf<Float32Array>(row);
    same<typeof row extends Float32Array ? true : false, true>(true);
  }
  // @ts-expect-error: rows are not to be exchanged
  vectors.rows = [];
  // @ts-expect-error: nor taken out
  vectors.rows.pop();

  same<MeshStatus["epoch"], string>(true);
  same<MeshStatus["workers"], readonly WorkerStatus[]>(true);
  same<MeshStatus["queues"], unknown>(true);
}

export async function iterables(): Promise<void> {
  for await (const chunk of mesh.generate("Once")) {
    same<typeof chunk, TextChunk>(true);
    same<typeof chunk.text, string>(true);
    same<typeof chunk.tokens, readonly number[]>(true);
  }
  const text = mesh.chat([{ role: "user", content: "Hello" }]);
  same<ReturnType<typeof text.text>, Promise<string>>(true);
  same<typeof text.final, Promise<GenerateResult>>(true);
  isOf<AsyncIterable<TextChunk>>(text);
  isOf<AsyncDisposable>(text);

  for await (const chunk of mesh.stream("tick", 1)) {
    same<typeof chunk, unknown>(true);
  }
  const stream = mesh.stream("tick", 1, { window: 4, affinity: new Uint8Array(2) });
  same<typeof stream.result, unknown>(true);
  same<typeof stream.final, Promise<unknown>>(true);
  same<typeof stream.moved, number>(true);
  // @ts-expect-error: a stream is read by `for await`
  for (const chunk of stream) break;
  // @ts-expect-error: a text is no promise of it; that is text()
  const whole: string = await mesh.generate("Once");
  isOf<string>(whole);

  for await (const event of mesh.events()) {
    same<typeof event, MeshEvent>(true);
    if (event.type === "epoch") {
      same<typeof event.previous, string>(true);
    } else if (event.type === "closed") {
      // @ts-expect-error: nothing is told with it
      isOf<string>(event.epoch);
    }
  }
}

/** Every code has a case: a new one does not compile until it has. */
export function advice(error: MeshError): string {
  switch (error.code) {
    case "OVERLOADED":
    case "OUT_OF_MEMORY":
    case "NO_WORKER":
      return `later, in ${error.retryAfterMs} ms`;
    case "INVALID_REQUEST":
    case "UNKNOWN_OP":
    case "UNKNOWN_MODEL":
    case "TOO_LARGE":
    case "UNAUTHORIZED":
    case "PROTOCOL_ERROR":
      return "never like this";
    case "DEADLINE_EXCEEDED":
    case "CANCELLED":
    case "WORKER_LOST":
    case "POISON_REQUEST":
    case "SLOW_CONSUMER":
    case "ENGINE_ERROR":
    case "INTERNAL":
      return error.retryable ? "perhaps" : "no";
    default:
      return error.code satisfies never;
  }
}

export function errors(error: unknown, told: string): void {
  same<MeshError["code"], ErrorCode>(true);
  same<OverloadedError["code"], "OVERLOADED">(true);
  same<DeadlineExceededError["code"], "DEADLINE_EXCEEDED">(true);
  same<keyof typeof ERROR_CLASSES, ErrorCode>(true);
  same<MeshError["retryable"], boolean>(true);
  same<MeshError["retryAfterMs"], number>(true);
  same<MeshError["details"], Readonly<Record<string, unknown>>>(true);
  if (error instanceof MeshError) {
    isOf<Error>(error);
    // @ts-expect-error: there is no such code
    isOf<boolean>(error.code === "OVERLOAD");
    // @ts-expect-error: what an error says stays
    error.retryAfterMs = 5;
  }
  if (isErrorCode(told)) {
    same<typeof told, ErrorCode>(true);
    isOf<MeshError>(new ERROR_CLASSES[told]("as told"));
  }
  isOf<MeshError>(new CancelledError("enough", { cause: error, details: { field: "signal" } }));
}

export async function options(): Promise<void> {
  same<LaneName, "interactive" | "standard" | "bulk">(true);
  const common: CallOptions = { model: "m", timeoutMs: 250, lane: "interactive", atMostOnce: true, waitForReady: true };
  await mesh.call("echo", { any: [1, "value", null, 2n, new Uint8Array(1)] }, { ...common, signal, cache: false });
  await mesh.embed("one text", { ...common, normalize: true, cache: false });
  await mesh.embed(new Set(["any", "iterable"]), { signal: undefined });
  mesh.generate([1, 2, 3], {
    ...common,
    maxTokens: 8,
    stop: ["\n"],
    logitBias: { 7: -1 },
    jsonSchema: { type: "object" },
  });
  mesh.chat([{ role: "user", content: "Hello", name: "somebody" }], { tools: [{ type: "function" }] });
  await mesh.ready({ ops: ["embed"], timeoutMs: 1000, signal });
  await mesh.status({ timeoutMs: 1000 });
  await mesh.close({ drainMs: 1000 });

  // @ts-expect-error: there is no such lane
  await mesh.call("echo", 1, { lane: "urgent" });
  // @ts-expect-error: times are in milliseconds, and their names say so
  await mesh.call("echo", 1, { timeout: 2 });
  // @ts-expect-error: an op has a name
  await mesh.call(1, 2);
  // @ts-expect-error: a payload is to be said, null included
  await mesh.call("echo");
  // @ts-expect-error: a stream has no cache
  mesh.stream("tick", 1, { cache: false });
  // @ts-expect-error: a window is for streams
  await mesh.call("echo", 1, { window: 4 });
  // @ts-expect-error: texts are strings
  await mesh.embed([1, 2]);
  // @ts-expect-error: names are as in JavaScript
  mesh.generate("Once", { max_tokens: 8 });
  // @ts-expect-error: a message has a role
  mesh.chat([{ content: "Hello" }]);
  // @ts-expect-error: nothing to wait for
  await mesh.ready({});
  // @ts-expect-error: a signal, not its controller
  await mesh.call("echo", 1, { signal: new AbortController() });
}

export async function connections(): Promise<void> {
  const given: ConnectOptions = { endpoint: "ipc:///tmp/frontend.sock", keys: "client.json", name: "types" };
  await connect();
  await connect({ ...given, keys: process.env.MLX_MESH_KEYS });
  isOf<AsyncDisposable>(await connect(given));
  // @ts-expect-error: an endpoint is a text
  await connect({ endpoint: 5555 });
  // @ts-expect-error: there is no such option
  await connect({ host: "localhost" });
  // @ts-expect-error: an endpoint has its name
  await connect("ipc:///tmp/frontend.sock");
}

export function tensors(value: unknown): void {
  const tensor = Tensor.from(Float32Array.of(1, 2, 3, 4), [2, 2]);
  same<typeof tensor, Tensor>(true);
  same<typeof tensor.dtype, Dtype>(true);
  same<typeof tensor.shape, readonly number[]>(true);
  same<ReturnType<Tensor["toFloat32"]>, Float32Array>(true);
  // @ts-expect-error: there is no such type of elements
  isOf<Tensor>(new Tensor(new Uint8Array(4), "float128", [1]));
  if (value instanceof Tensor) {
    isOf<Uint8Array>(value.data);
  }
}
