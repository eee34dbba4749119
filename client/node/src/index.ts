/** The client of mlx-mesh: embeddings and text from models that stay warm. */

export { connect } from "./client/connect.js";
export { Embeddings } from "./client/embeddings.js";
export type { MeshEvent } from "./client/events.js";
export { Generation } from "./client/generation.js";
export { Mesh } from "./client/mesh.js";
export type { MeshStatus, WorkerStatus } from "./client/ready.js";
export type { ChatMessage, GenerateResult, TextChunk, TokenLogprob } from "./client/sampling.js";
export { Stream } from "./client/stream.js";
export * from "./errors.js";
export type * from "./options.js";
export type { FilledPoolOptions, PoolCloseOptions, PoolOptions, PoolTask, RunOptions } from "./pool/options.js";
export { createPool, Pool } from "./pool/pool.js";
export type { PoolEvents } from "./pool/pool.js";
export type { HistogramSummary, PoolHistogram } from "./pool/timings.js";
export { CALL_CHANNELS } from "./telemetry/messages.js";
export type { CallEnd, CallError, CallStart } from "./telemetry/messages.js";
export { NativeModuleError } from "./transport/load.js";
export { type Dtype, type NumberArray, Tensor } from "./wire/body.js";
export type { LaneName } from "./wire/messages.js";
