import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { text } from "node:stream/consumers";

import { LiveMesh, PATIENCE_MS } from "../live/mesh.js";
import { PARTS } from "./program.js";
import type { Found, Sample } from "./program.js";

/** `npm run test:heap` has ten times as many calls, and five times as many streams. */
const CALLS = Number(process.env.MLX_MESH_HEAP_CALLS ?? 10_000);
const STREAMS = Number(process.env.MLX_MESH_HEAP_STREAMS ?? 200);

/**
 * Collected heaps differ by up to 150 KiB from one sample to the next. Half of the calls lie between what is compared:
 * of 10,000, 53 bytes left behind by each are more than this, and of 100,000, 6 bytes.
 */
const HEAP_BYTES = 256 * 1024;

/** One call in 16 has a tensor of 4 KiB, so that those of 10,000 would be 1.2 MiB. */
const EXTERNAL_BYTES = 64 * 1024;

describe(`${CALLS} calls and ${STREAMS} streams that are aborted`, { timeout: 10 * PATIENCE_MS }, () => {
  let found: Found;

  before(async () => {
    await using live = new LiveMesh();
    live.serve("echo", "mine:Ticker");
    await live.ready("echo", "tick");
    const program = join(import.meta.dirname, "program.js");
    const args = ["--expose-gc", program, live.endpoint, String(CALLS), String(STREAMS)];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
    assert.deepEqual({ status: 0, errors: "" }, { status: child.exitCode, errors });
    found = JSON.parse(output) as Found;
  });

  it("leave nothing on the heap", (context) => {
    const { samples, seconds } = found;
    const heaps = samples.map(({ heap }) => Math.round(heap / 1024)).join(", ");
    context.diagnostic(`${seconds.toFixed(1)} s; KiB of heap after each tenth: ${heaps}`);
    const grown = growth(samples, ({ heap }) => heap);
    assert.ok(grown < HEAP_BYTES, `${grown} bytes more: ${heaps} KiB`);
  });

  it("leave nothing outside of the heap", () => {
    const grown = growth(found.samples, ({ external }) => external);
    assert.ok(grown < EXTERNAL_BYTES, `${grown} bytes more`);
  });

  it("leave no socket, timer or descriptor", () => {
    const [first] = found.samples;
    for (const { resources, descriptors } of found.samples) {
      assert.deepEqual([first?.resources, first?.descriptors], [resources, descriptors]);
    }
  });

  it("share one listener of a signal that they share, and leave none", () => {
    const { samples, listenersMax, left } = found;
    assert.equal(listenersMax, 1);
    assert.equal(left, 0);
    assert.deepEqual(
      samples.map(() => 0),
      samples.map(({ listeners }) => listeners),
    );
  });

  it("are no reason for a warning", () => {
    assert.deepEqual([], found.warnings);
  });
});

/** How much more there is in the last parts than in those of the middle, when all is compiled and caches are full. */
function growth(samples: readonly Sample[], of: (sample: Sample) => number): number {
  const middle = samples.slice(PARTS / 2 - 3, PARTS / 2);
  return median(samples.slice(-3).map(of)) - median(middle.map(of));
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}
