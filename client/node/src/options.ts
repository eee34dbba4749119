/** What callers may say about a connection and about each call. Times are in milliseconds. */

import type { LaneName } from "./wire/messages.js";

/** How to connect; all of it has a default. */
export interface ConnectOptions {
  /**
   * `ipc://PATH` or `tcp://HOST:PORT`; by default `$MLX_MESH_ENDPOINT`, or the frontend of the run directory, which is
   * `$MLX_MESH_RUN_DIR` or `~/.mlx-mesh/run`.
   */
  readonly endpoint?: string | undefined;
  /** The file made by `mlx-mesh keys add-client`; by default `$MLX_MESH_KEYS`. Only for tcp endpoints. */
  readonly keys?: string | undefined;
  /** Shown to operators; by default the name of the script and the process id. */
  readonly name?: string | undefined;
}

/** What every call takes. */
export interface CallOptions {
  /** By default the worker's own. */
  readonly model?: string | undefined;
  /** How long the caller waits for the end, 60,000 by default. It travels with the request as its deadline. */
  readonly timeoutMs?: number | undefined;
  /** Who waits for the answer: a person, a program (the default), or nobody in particular. */
  readonly lane?: LaneName | undefined;
  /** Never run it again once a worker may have started it. */
  readonly atMostOnce?: boolean | undefined;
  /** Wait even if no worker for the op is known yet. */
  readonly waitForReady?: boolean | undefined;
  /**
   * Of W3C Trace Context: the trace that the call belongs to, at most 64 characters. It is passed on to the worker as it
   * is; with `mlx-mesh/otel` the call gets a span in that trace, and the worker is told of the span.
   */
  readonly traceparent?: string | undefined;
  /** Ends the call with a {@link CancelledError}, whose `cause` is the reason of the signal. */
  readonly signal?: AbortSignal | undefined;
}

/** What {@link Mesh.call} takes. */
export interface RequestOptions extends CallOptions {
  /** False: take no answer that was computed for somebody else. */
  readonly cache?: boolean | undefined;
  /** Requests of the same key go to the same worker, unless it is clearly busier than others. */
  readonly affinity?: string | Uint8Array | undefined;
}

/** What {@link Mesh.stream} takes. */
export interface StreamOptions extends CallOptions {
  readonly affinity?: string | Uint8Array | undefined;
  /** Chunks that may be under way or unread, 16 by default; then the worker waits for the reader. */
  readonly window?: number | undefined;
}

/** What {@link Mesh.embed} takes. */
export interface EmbedOptions extends CallOptions {
  readonly cache?: boolean | undefined;
  /** Whether the vectors are made one long; by default as the model's own folder says. */
  readonly normalize?: boolean | undefined;
}

/** How much text, and how its tokens are chosen; whatever is left out is the worker's default. */
export interface Sampling {
  readonly maxTokens?: number | undefined;
  /** Without one the likeliest token is taken each time. */
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly minP?: number | undefined;
  /** The same seed gives the same text; one is drawn if none is given. */
  readonly seed?: number | undefined;
  readonly stop?: string | readonly string[] | undefined;
  readonly stopTokens?: readonly number[] | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly presencePenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  /** By token id. */
  readonly logitBias?: Readonly<Record<number, number>> | undefined;
  readonly logprobs?: boolean | undefined;
  readonly topLogprobs?: number | undefined;
  /** A JSON schema, or its text, that the answer is held to. */
  readonly jsonSchema?: Readonly<Record<string, unknown>> | string | undefined;
}

/** What {@link Mesh.generate} takes. */
export interface GenerateOptions extends CallOptions, Sampling {
  readonly window?: number | undefined;
}

/** What {@link Mesh.chat} takes. */
export interface ChatOptions extends GenerateOptions {
  /** Passed on to the model's chat template. */
  readonly tools?: readonly unknown[] | undefined;
}

/** What {@link Mesh.status} takes. */
export interface StatusOptions {
  /** 5,000 by default. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What {@link Mesh.ready} takes. */
export interface ReadyOptions {
  /** The ops that must each have a warm worker. */
  readonly ops: string | readonly string[];
  /** 30,000 by default. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What {@link Mesh.close} takes. */
export interface CloseOptions {
  /** How long calls that are under way may still take; 0, the default, ends them at once. */
  readonly drainMs?: number | undefined;
}
