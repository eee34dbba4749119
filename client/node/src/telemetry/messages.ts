/** What is told of each request on channels of `node:diagnostics_channel`. */

import type { ErrorCode, MeshError } from "../errors.js";
import type { LaneName } from "../wire/messages.js";

/**
 * The names of the channels. Every request that a client makes gets one `start` and then, once, `end` or `error`.
 *
 * ```ts
 * import { subscribe } from "node:diagnostics_channel";
 * import type { CallEnd } from "mlx-mesh";
 *
 * subscribe("mlx-mesh:call:end", (message) => {
 *   const { op, totalMs } = message as CallEnd;
 * });
 * ```
 *
 * - `start` ({@link CallStart}) is told before anything is sent, in the turn and the async context of the caller; a
 *   stream is sent when its reader begins.
 * - `end` ({@link CallEnd}): a result came, or the reader of a stream left it early, which is no failure.
 * - `error` ({@link CallError}): the request failed, was aborted, or was refused by the client itself.
 *
 * A long list of texts given to `embed` goes as several requests, each told for itself. Neither `status` nor `ready`
 * is told, nor what is no request at all, as an option that is refused. A result that came and cannot be read is told
 * as an `end`, although its caller gets a {@link ProtocolError}.
 *
 * Where nobody subscribes nothing is made. A request that began before anybody did is not told. An exception of a
 * subscriber is no matter of the request: Node raises it as an `uncaughtException`, as for all channels.
 */
export const CALL_CHANNELS = {
  start: "mlx-mesh:call:start",
  end: "mlx-mesh:call:end",
  error: "mlx-mesh:call:error",
} as const;

/** A request begins. */
export interface CallStart {
  /** The same object in all messages of one request, and nothing else: a key for a `WeakMap` or a `Map`. */
  readonly call: object;
  readonly op: string;
  /** Empty: the worker's default. */
  readonly model: string;
  readonly lane: LaneName;
  /** Whether its answer comes in chunks. */
  readonly stream: boolean;
  readonly atMostOnce: boolean;
  /** Its time, in milliseconds. */
  readonly timeoutMs: number;
  /** Size of the body and its buffers. */
  readonly bytes: number;
  /** Of the client: `ipc://PATH` or `tcp://HOST:PORT`. */
  readonly endpoint: string;
  /**
   * As the caller gave it, empty if not at all. What a subscriber of `start` leaves here is sent; what is no string of
   * up to 64 characters is not.
   */
  traceparent: string;
}

/** A request is over: a result came, or the reader left. */
export interface CallEnd extends Readonly<CallStart> {
  /** As in the broker's log and records, the last one if it was sent again; 0 if it was never sent. */
  readonly requestId: number;
  /** How often the client sent it again, after a refusal that allows this. */
  readonly retries: number;
  /** How often a stream went on in another worker after chunks had come. */
  readonly moved: number;
  /** Chunks that came. */
  readonly chunks: number;
  /** From `start` to the first chunk, in milliseconds; undefined if none came. */
  readonly firstChunkMs: number | undefined;
  /** From `start` until now, in milliseconds. */
  readonly totalMs: number;
  /** Whether the reader of a stream left before its end; then what only a result tells is undefined. */
  readonly left: boolean;
  /** How often workers began it; undefined without a result. */
  readonly attempts: number | undefined;
  /** From its arrival at the broker until the worker got it that answered, in milliseconds; undefined without a result. */
  readonly queueMs: number | undefined;
  /** From the first step of the worker's engine on it to the last, in milliseconds; undefined without a result. */
  readonly serviceMs: number | undefined;
  /** Whether the result was kept from an earlier request; undefined without a result. */
  readonly cached: boolean | undefined;
  /** Whether it was computed for several requests at once; undefined without a result. */
  readonly shared: boolean | undefined;
}

/** A request failed. */
export interface CallError extends CallEnd {
  /** What its caller gets, or an error that is made alike: class, code and message are the same. */
  readonly error: MeshError;
  /** The code of the error. */
  readonly code: ErrorCode;
}
