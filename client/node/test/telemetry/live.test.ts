import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { context } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";

import { NoWorkerError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { traceCalls } from "../../src/otel.js";
import { end, LiveMesh, PATIENCE_MS, until } from "../live/mesh.js";
import { Listener } from "./listener.js";

/** trail: the traceparent of the job; trails: three of it as chunks, and again as the result. */
const TRACED = `
import time
from mlx_mesh_worker.engine import Chunk, Engine, Result

class Traced(Engine):
    ops = ("trail", "trails")
    slots = 8

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}

    def admit(self, job):
        self.jobs[job] = 0

    def cancel(self, job):
        self.jobs.pop(job, None)

    def step(self):
        self.mark(list(self.jobs))
        time.sleep(0.01)
        return [self.tell(job) for job in list(self.jobs) if not job.blocked]

    def tell(self, job):
        self.jobs[job] += 1
        if job.op == "trails" and self.jobs[job] <= 3:
            return Chunk(job, job.traceparent)
        del self.jobs[job]
        return Result(job, job.traceparent)
`;

describe("requests of a live mesh that are traced", { timeout: 4 * PATIENCE_MS }, () => {
  const exporter = new InMemorySpanExporter();
  const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  let live: LiveMesh;
  let mesh: Mesh;
  let stop: () => void;

  before(async () => {
    context.setGlobalContextManager(new AsyncLocalStorageContextManager());
    stop = traceCalls({ tracerProvider });
    live = new LiveMesh();
    writeFileSync(join(live.dir, "traced.py"), TRACED);
    live.serve("traced:Traced", "mine:Ticker");
    mesh = await live.ready("trail", "tick");
  });

  after(async () => {
    stop();
    context.disable();
    await live[Symbol.asyncDispose]();
  });

  /** Do something within a span; return its trace and the spans that came of it. */
  async function within<T>(act: () => Promise<T>): Promise<{ result: T; traceId: string; sent: string[] }> {
    exporter.reset();
    return tracerProvider.getTracer("test").startActiveSpan("outer", async (outer) => {
      const result = await act();
      const { traceId, spanId } = outer.spanContext();
      const inner = exporter.getFinishedSpans();
      assert.deepEqual(new Set([spanId]), new Set(inner.map((span) => span.parentSpanContext?.spanId)));
      const sent = inner.map((span) => `00-${span.spanContext().traceId}-${span.spanContext().spanId}-01`);
      outer.end();
      return { result, traceId, sent };
    });
  }

  it("tell the worker of their span", async () => {
    const { result, traceId, sent } = await within(() => mesh.call("trail", 1));
    assert.deepEqual([result], sent);
    assert.ok(String(result).startsWith(`00-${traceId}-`));
    const [span] = exporter.getFinishedSpans();
    assert.equal(live.endpoint, `ipc://${String(span?.attributes["server.address"])}`);
    assert.equal(1, span?.attributes["mlx_mesh.attempts"]);
    assert.ok(Number(span?.attributes["mlx_mesh.service_time_seconds"]) >= 0.01);
  });

  it("tell it as streams, too", async () => {
    const { result, sent } = await within(async () => {
      const stream = mesh.stream("trails", 1);
      const chunks: unknown[] = [];
      for await (const chunk of stream) {
        chunks.push(chunk);
      }
      return [...chunks, stream.result];
    });
    const [only = ""] = sent;
    assert.deepEqual([only, only, only, only], result);
    assert.equal(3, exporter.getFinishedSpans()[0]?.attributes["mlx_mesh.chunks"]);
  });

  it("are each told of for themselves when they run side by side", async () => {
    const { result, sent } = await within(() =>
      Promise.all(Array.from({ length: 100 }, (_, number) => mesh.call("trail", number, { cache: false }))),
    );
    assert.equal(100, new Set(result).size);
    assert.deepEqual(new Set(sent), new Set(result));
  });

  it("that nobody serves are told as errors", async () => {
    using listener = new Listener();
    await assert.rejects(mesh.call("nobody.serves", 1), NoWorkerError);
    assert.deepEqual(["start nobody.serves", "error nobody.serves"], listener.order);
    assert.equal("NO_WORKER", listener.errors[0]?.code);
  });

  it("tell how often workers began them when one dies", async () => {
    using listener = new Listener();
    const doomed = live.worker("mine:Teller", "doomed");
    await mesh.ready({ ops: ["generate"], timeoutMs: PATIENCE_MS });
    const reading = mesh.generate("count", { maxTokens: 400, waitForReady: true });
    await reading.next();
    await end(doomed, "SIGKILL");
    live.worker("mine:Teller", "heir");
    await reading.text();
    await until("the end was told", () => listener.ends.length === 1);
    const [told] = listener.ends;
    assert.deepEqual(["generate", 2, 1], [told?.op, told?.attempts, told?.moved]);
    assert.ok(told?.firstChunkMs !== undefined && told.firstChunkMs < told.totalMs);
  });
});

describe("a traceparent that a caller gives", { timeout: 2 * PATIENCE_MS }, () => {
  it("goes to the worker as it is where nobody traces", async () => {
    await using live = new LiveMesh();
    writeFileSync(join(live.dir, "traced.py"), TRACED);
    live.serve("traced:Traced");
    const mesh = await live.ready("trail");
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert.equal(traceparent, await mesh.call("trail", 1, { traceparent }));
    assert.equal(traceparent, (await mesh.stream("trails", 1, { traceparent }).next()).value);
    assert.equal("", await mesh.call("trail", 2));
  });
});
