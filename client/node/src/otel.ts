/**
 * Requests as spans of OpenTelemetry: the package export `mlx-mesh/otel`, for programs that have `@opentelemetry/api`.
 *
 * ```ts
 * import { traceCalls } from "mlx-mesh/otel";
 *
 * const stop = traceCalls();
 * ```
 */

import { context, diag, isSpanContextValid, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import type { Attributes, Context, Span, SpanContext, Tracer, TracerProvider } from "@opentelemetry/api";
import { subscribe, unsubscribe } from "node:diagnostics_channel";

import { IPC } from "./endpoint.js";
import { CALL_CHANNELS } from "./telemetry/messages.js";
import type { CallEnd, CallError, CallStart } from "./telemetry/messages.js";

/** What {@link traceCalls} takes. */
export interface TraceOptions {
  /** Makes the spans; by default the one that is registered globally, now or later. */
  readonly tracerProvider?: TracerProvider | undefined;
}

/** Version, trace, span and flags of a traceparent; a later version may have more behind them. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/;

/** What the conventions for generative AI call the ops of this project. */
const OPERATIONS: Readonly<Record<string, string>> = {
  chat: "chat",
  embed: "embeddings",
  generate: "text_completion",
};

/**
 * Have each request of this process become a span, and its worker told of the span by `traceparent`.
 *
 * The span is of the kind CLIENT, named by op and model, within the span that is active where the request begins, or
 * within the `traceparent` that its caller gave. It has
 *
 * - by the conventions for RPC `rpc.system.name`, `rpc.method` (the op), `rpc.response.status_code` (`OK` or the code
 *   of the error), `server.address`, `server.port`, and `error.type` if it failed;
 * - by those for generative AI `gen_ai.operation.name` and `gen_ai.request.model`;
 * - under `mlx_mesh.` the rest of {@link CallEnd}, where there is any: `lane`, `request_id`, `attempts`, `retries`,
 *   `moved`, `chunks`, `cached`, `shared`, `left`, and, named as the broker's metrics, in seconds,
 *   `queue_time_seconds`, `service_time_seconds` and `time_to_first_token_seconds`.
 *
 * Neither prompts nor results are in it. A reader who leaves a stream early is no error.
 *
 * What goes wrong in here is told to the `diag` logger of OpenTelemetry and costs the span, never the request. Call it
 * once; each further time makes spans of its own, and the worker is told of those that were made last.
 *
 * @returns a function that ends it. Spans of requests that are under way still end with them.
 */
export function traceCalls(options: TraceOptions = {}): () => void {
  const { tracerProvider = trace.getTracerProvider() } = options;
  const spans = new CallSpans(tracerProvider.getTracer("mlx-mesh"));
  subscribe(CALL_CHANNELS.start, spans.onStart);
  subscribe(CALL_CHANNELS.end, spans.onEnd);
  subscribe(CALL_CHANNELS.error, spans.onEnd);
  return spans.stop;
}

/** The spans of requests that are under way. */
class CallSpans {
  private readonly open = new Map<object, Span>();
  private stopped = false;

  constructor(private readonly tracer: Tracer) {}

  readonly onStart = guarded((message) => {
    const start = message as CallStart;
    const { op, model } = start;
    const span = this.tracer.startSpan(
      model === "" ? op : `${op} ${model}`,
      { kind: SpanKind.CLIENT, attributes: startAttributes(start) },
      parentOf(start),
    );
    this.open.set(start.call, span);
    const spanContext = span.spanContext();
    // Without an SDK there is no span, and what the caller gave stays.
    if (isSpanContextValid(spanContext)) {
      start.traceparent = traceparentOf(spanContext);
    }
  });

  readonly onEnd = guarded((message) => {
    const end = message as CallEnd | CallError;
    const span = this.open.get(end.call);
    if (span === undefined) {
      return; // It began before this did.
    }
    this.open.delete(end.call);
    this.leave();
    span.setAttributes(endAttributes(end));
    if ("error" in end) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: end.error.message });
    }
    span.end();
  });

  readonly stop = (): void => {
    this.stopped = true;
    unsubscribe(CALL_CHANNELS.start, this.onStart);
    this.leave();
  };

  /** Listen no more, if nothing is awaited any more. */
  private leave(): void {
    if (this.stopped && this.open.size === 0) {
      unsubscribe(CALL_CHANNELS.end, this.onEnd);
      unsubscribe(CALL_CHANNELS.error, this.onEnd);
    }
  }
}

/** An exception of a subscriber would end the process. */
function guarded(act: (message: unknown) => void): (message: unknown) => void {
  return (message) => {
    try {
      act(message);
    } catch (error) {
      diag.error("mlx-mesh: a request is not traced", error);
    }
  };
}

/** The context that a span belongs in. */
function parentOf({ traceparent }: CallStart): Context {
  const active = context.active();
  const [, traceId = "", spanId = "", flags = ""] = TRACEPARENT.exec(traceparent) ?? [];
  const parent: SpanContext = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
  return isSpanContextValid(parent) ? trace.setSpanContext(active, parent) : active;
}

function traceparentOf({ traceId, spanId, traceFlags }: SpanContext): string {
  return `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, "0")}`;
}

function startAttributes({ op, model, lane, endpoint }: CallStart): Attributes {
  return {
    "rpc.system.name": "mlx-mesh",
    "rpc.method": op,
    "gen_ai.operation.name": Object.hasOwn(OPERATIONS, op) ? OPERATIONS[op] : undefined,
    "gen_ai.request.model": model === "" ? undefined : model,
    "mlx_mesh.lane": lane,
    ...serverAttributes(endpoint),
  };
}

function serverAttributes(endpoint: string): Attributes {
  if (endpoint.startsWith(IPC)) {
    return { "server.address": endpoint.slice(IPC.length) };
  }
  const colon = endpoint.lastIndexOf(":");
  const host = endpoint.slice(endpoint.indexOf("//") + 2, colon);
  return { "server.address": host.replace(/^\[|\]$/g, ""), "server.port": Number(endpoint.slice(colon + 1)) };
}

function endAttributes(end: CallEnd | CallError): Attributes {
  const code = "error" in end ? end.code : undefined;
  return {
    "rpc.response.status_code": code ?? (end.left ? undefined : "OK"),
    "error.type": code,
    "mlx_mesh.request_id": end.requestId,
    "mlx_mesh.retries": end.retries,
    "mlx_mesh.attempts": end.attempts,
    "mlx_mesh.cached": end.cached,
    "mlx_mesh.shared": end.shared,
    "mlx_mesh.queue_time_seconds": seconds(end.queueMs),
    "mlx_mesh.service_time_seconds": seconds(end.serviceMs),
    ...(end.stream ? streamAttributes(end) : {}),
  };
}

function streamAttributes({ chunks, moved, left, firstChunkMs }: CallEnd): Attributes {
  return {
    "mlx_mesh.chunks": chunks,
    "mlx_mesh.moved": moved,
    "mlx_mesh.left": left,
    "mlx_mesh.time_to_first_token_seconds": seconds(firstChunkMs),
  };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1000;
}
