/** How long the tasks of a pool waited and ran. */

import { createHistogram } from "node:perf_hooks";
import type { RecordableHistogram } from "node:perf_hooks";

import { REMAINING_MAX_MS } from "../wire/limits.js";

/** Histograms count whole microseconds, from 1. */
const UNITS_PER_MS = 1000;

const PERCENTILES = {
  p0_001: 0.001,
  p0_01: 0.01,
  p0_1: 0.1,
  p1: 1,
  p2_5: 2.5,
  p10: 10,
  p25: 25,
  p50: 50,
  p75: 75,
  p90: 90,
  p97_5: 97.5,
  p99: 99,
  p99_9: 99.9,
  p99_99: 99.99,
  p99_999: 99.999,
} as const;

/** A histogram in numbers, all of them in milliseconds; 0 where nothing was recorded. */
export type HistogramSummary = Readonly<
  Record<"average" | "mean" | "stddev" | "min" | "max" | keyof typeof PERCENTILES, number>
>;

/** The times of tasks that got a result. Both together are what the caller waited for. */
export class PoolHistogram {
  readonly #run = histogram();
  readonly #wait = histogram();

  /** From the moment that the broker gave a task to the worker that answered; near 0 for what it had kept. */
  get runTime(): HistogramSummary {
    return summaryOf(this.#run);
  }

  /** All other time of a task: in the pool, on the way, in the queue of the broker, before a retry. */
  get waitTime(): HistogramSummary {
    return summaryOf(this.#wait);
  }

  resetRunTime(): void {
    this.#run.reset();
  }

  resetWaitTime(): void {
    this.#wait.reset();
  }

  /** @internal Count a task by its times in milliseconds. */
  record(runMs: number, waitMs: number): void {
    this.#run.record(unitsOf(runMs));
    this.#wait.record(unitsOf(waitMs));
  }
}

function histogram(): RecordableHistogram {
  return createHistogram({ highest: REMAINING_MAX_MS * UNITS_PER_MS });
}

function unitsOf(ms: number): number {
  return Math.max(1, Math.round(ms * UNITS_PER_MS));
}

function summaryOf(times: RecordableHistogram): HistogramSummary {
  const isEmpty = times.count === 0;
  const ms = (units: number): number => (isEmpty ? 0 : units / UNITS_PER_MS);
  const mean = ms(times.mean);
  const numbers = { average: mean, mean, stddev: ms(times.stddev), min: ms(times.min), max: ms(times.max) };
  const percentiles = Object.entries(PERCENTILES).map(([name, percent]) => [name, ms(times.percentile(percent))]);
  return { ...numbers, ...(Object.fromEntries(percentiles) as Record<keyof typeof PERCENTILES, number>) };
}
