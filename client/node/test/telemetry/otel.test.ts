import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { context, diag, DiagLogLevel, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AlwaysOffSampler,
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import type { ReadableSpan } from "@opentelemetry/sdk-trace-base";

import { OverloadedError } from "../../src/index.js";
import { traceCalls } from "../../src/otel.js";
import { traceOf } from "../../src/telemetry/trace.js";
import { packBody } from "../../src/wire/body.js";
import { FakeMesh, turn } from "../client/fake.js";
import { answer, sentTraceparents } from "./listener.js";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";

describe("requests as spans", { timeout: 60_000 }, () => {
  const exporter = new InMemorySpanExporter();
  const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  const tracer = tracerProvider.getTracer("test");
  let stop: () => void;
  let fake: FakeMesh;

  before(() => {
    context.setGlobalContextManager(new AsyncLocalStorageContextManager());
  });

  after(() => {
    context.disable();
  });

  beforeEach(async () => {
    exporter.reset();
    stop = traceCalls({ tracerProvider });
    fake = new FakeMesh();
    fake.transport.welcome();
    await turn(); // From now on the first request goes out at once.
  });

  afterEach(async () => {
    await fake.mesh.close();
    stop();
  });

  function only(): ReadableSpan {
    const [span, ...others] = exporter.getFinishedSpans();
    assert.ok(span !== undefined && others.length === 0);
    return span;
  }

  it("are of the kind client, named by op and model, and have what the conventions say and more", async () => {
    const asked = fake.mesh.call("embed", 1, { model: "small", lane: "interactive" });
    answer(fake, 1, 1, { attempts: 2, queueUs: 1500, serviceUs: 2500, flags: 2 });
    await asked;
    const { kind, name, attributes, status, parentSpanContext, instrumentationScope } = only();
    assert.deepEqual([SpanKind.CLIENT, "embed small", "mlx-mesh"], [kind, name, instrumentationScope.name]);
    assert.deepEqual({ code: SpanStatusCode.UNSET }, status);
    assert.equal(undefined, parentSpanContext);
    assert.deepEqual(
      {
        "rpc.system.name": "mlx-mesh",
        "rpc.method": "embed",
        "rpc.response.status_code": "OK",
        "server.address": "nowhere",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "small",
        "mlx_mesh.lane": "interactive",
        "mlx_mesh.request_id": 1,
        "mlx_mesh.retries": 0,
        "mlx_mesh.attempts": 2,
        "mlx_mesh.cached": false,
        "mlx_mesh.shared": true,
        "mlx_mesh.queue_time_seconds": 0.0015,
        "mlx_mesh.service_time_seconds": 0.0025,
      },
      attributes,
    );
  });

  it("say of streams when the first chunk came, and that a reader who left is no error", async () => {
    const stream = fake.mesh.stream("tick", 1);
    const first = stream.next();
    fake.transport.tell({ type: "Chunk", id: 1, seq: 0 }, packBody("a"));
    await first;
    await stream.return();
    await turn();
    const { name, attributes, status } = only();
    assert.deepEqual(["tick", SpanStatusCode.UNSET], [name, status.code]);
    assert.deepEqual(
      [1, 0, true],
      ["chunks", "moved", "left"].map((each) => attributes[`mlx_mesh.${each}`]),
    );
    assert.ok(Number(attributes["mlx_mesh.time_to_first_token_seconds"]) > 0);
    assert.ok(!("gen_ai.operation.name" in attributes) && !("rpc.response.status_code" in attributes));
  });

  it("that failed have the status and the type of the error", async () => {
    const failed = assert.rejects(fake.mesh.call("echo", 1), OverloadedError);
    const refusal = { type: "Error", id: 1, code: "OVERLOADED", message: "full", retryAfterMs: 5 } as const;
    fake.transport.tell({ ...refusal, retryable: false });
    await failed;
    const { attributes, status } = only();
    assert.deepEqual({ code: SpanStatusCode.ERROR, message: "full" }, status);
    assert.deepEqual(["OVERLOADED", "OVERLOADED"], [attributes["error.type"], attributes["rpc.response.status_code"]]);
  });

  it("are within the active span, and go to the worker by traceparent", async () => {
    const asked = await tracer.startActiveSpan("outer", async (outer) => {
      const calls = [fake.mesh.call("echo", 1), fake.mesh.call("echo", 2)];
      await turn();
      answer(fake, 1, 1);
      answer(fake, 2, 2);
      await Promise.all(calls);
      outer.end();
      return outer.spanContext();
    });
    const inner = exporter.getFinishedSpans().filter(({ name }) => name === "echo");
    assert.deepEqual(
      [asked.spanId, asked.spanId],
      inner.map(({ parentSpanContext }) => parentSpanContext?.spanId),
    );
    assert.deepEqual(
      inner.map((span) => `00-${asked.traceId}-${span.spanContext().spanId}-01`),
      sentTraceparents(fake),
    );
  });

  it("are within the traceparent that the caller gave, rather than the active span", async () => {
    await tracer.startActiveSpan("outer", async (outer) => {
      const asked = fake.mesh.call("echo", 1, { traceparent: `00-${TRACE}-${SPAN}-01` });
      answer(fake, 1, 1);
      await asked;
      outer.end();
    });
    const [inner] = exporter.getFinishedSpans();
    assert.deepEqual(
      [TRACE, SPAN, true],
      [inner?.spanContext().traceId, inner?.parentSpanContext?.spanId, inner?.parentSpanContext?.isRemote],
    );
    assert.deepEqual([`00-${TRACE}-${inner?.spanContext().spanId ?? ""}-01`], sentTraceparents(fake));
  });

  it("are in a trace of their own where the caller gave what is no traceparent", async () => {
    for (const traceparent of ["garbage", `ff-${TRACE}-${SPAN}-01`, `00-${"0".repeat(32)}-${SPAN}-01`]) {
      const failed = assert.rejects(fake.mesh.call("echo", 1, { traceparent, signal: AbortSignal.timeout(1) }));
      await failed;
    }
    const spans = exporter.getFinishedSpans();
    assert.equal(3, spans.length);
    for (const span of spans) {
      assert.equal(undefined, span.parentSpanContext);
      assert.notEqual(TRACE, span.spanContext().traceId);
    }
  });

  it("that are not sampled say so to the worker", async () => {
    stop();
    stop = traceCalls({ tracerProvider: new BasicTracerProvider({ sampler: new AlwaysOffSampler() }) });
    const asked = fake.mesh.call("echo", 1);
    answer(fake, 1, 1);
    await asked;
    assert.deepEqual([], exporter.getFinishedSpans());
    assert.match(sentTraceparents(fake)[0] ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
  });

  it("are none without an SDK, and leave what the caller gave", async () => {
    stop();
    stop = traceCalls();
    const given = [`00-${TRACE}-${SPAN}-01`, "garbage", ""];
    const all = given.map((traceparent) => fake.mesh.call("echo", 1, { traceparent }));
    await turn();
    for (const index of given.keys()) {
      answer(fake, index + 1, 1);
    }
    await Promise.all(all);
    assert.deepEqual(given, sentTraceparents(fake));
  });

  it("are made by the provider that is registered, even later", async () => {
    stop();
    stop = traceCalls();
    trace.setGlobalTracerProvider(tracerProvider);
    const asked = fake.mesh.call("echo", 1);
    answer(fake, 1, 1);
    await asked;
    trace.disable();
    assert.equal("echo", only().name);
  });

  it("still end after tracing was stopped, and then nobody listens", async () => {
    const asked = fake.mesh.call("echo", 1);
    stop();
    const untraced = fake.mesh.call("echo", 2);
    await turn();
    answer(fake, 1, 1);
    answer(fake, 2, 2);
    await Promise.all([asked, untraced]);
    assert.equal(1, only().attributes["mlx_mesh.request_id"]);
    const call = { op: "echo", model: "", lane: 1, timeoutMs: 1, flags: 0, window: 0, traceparent: "" } as const;
    assert.equal(undefined, traceOf({ ...call, affinity: new Uint8Array(0), frames: [] }, "ipc://nowhere"));
  });

  it("that cannot be made cost the request nothing, and are told to the diag logger", async () => {
    const told: unknown[] = [];
    const log = (...args: unknown[]): void => void told.push(args);
    diag.setLogger({ error: log, warn: log, info: log, debug: log, verbose: log }, DiagLogLevel.ERROR);
    stop();
    stop = traceCalls({
      tracerProvider: {
        getTracer: () => ({
          startSpan: () => {
            throw new Error("no span");
          },
          startActiveSpan: () => assert.fail("it is not asked for"),
        }),
      },
    });
    const asked = fake.mesh.call("echo", 1);
    answer(fake, 1, "fine");
    assert.equal("fine", await asked);
    diag.disable();
    assert.deepEqual([["mlx-mesh: a request is not traced", new Error("no span")]], told);
  });
});
