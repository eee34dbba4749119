/** The state of the mesh, and waiting until ops have warm workers. */

import { setTimeout as sleep } from "node:timers/promises";

import { CancelledError, DeadlineExceededError, InvalidRequestError, NoWorkerError, ProtocolError } from "../errors.js";
import type { ReadyOptions, StatusOptions } from "../options.js";
import { abortedError } from "./abort.js";
import { bad, checkOp, checkSignal, checkTimeout } from "./checks.js";

/** How often the status is asked for: workers start in tenths of a second. */
const INTERVAL_MS = 50;
const DEFAULT_TIMEOUT_MS = 30_000;
const LEFT_MIN_MS = 10;

/** A worker, as the broker sees it; there are further fields. */
export interface WorkerStatus {
  readonly name: string;
  readonly state: string;
  readonly ops: readonly string[];
  readonly models: readonly string[];
  readonly [field: string]: unknown;
}

/** The state of the mesh; there are further fields. */
export interface MeshStatus {
  readonly epoch: string;
  readonly workers: readonly WorkerStatus[];
  readonly [field: string]: unknown;
}

/** Return a status if it is one. @throws {@link ProtocolError} */
export function statusOf(value: unknown): MeshStatus {
  const status = value as MeshStatus | null;
  if (typeof status !== "object" || status === null || !Array.isArray(status.workers)) {
    throw new ProtocolError("the status has no list of workers");
  }
  return status;
}

/**
 * Return once each op has a warm worker.
 *
 * @param ask - gets the status.
 * @throws {@link NoWorkerError} naming the ops that still lack one.
 * @throws {@link DeadlineExceededError} no broker answered.
 */
export async function waitReady(
  options: ReadyOptions,
  ask: (options: StatusOptions) => Promise<MeshStatus>,
): Promise<void> {
  const ops = opsOf(options.ops);
  const timeoutMs = checkTimeout(options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  const signal = checkSignal(options.signal);
  const until = performance.now() + timeoutMs;
  let missing: readonly string[] | undefined;
  for (;;) {
    const leftMs = Math.max(LEFT_MIN_MS, until - performance.now());
    try {
      missing = missingOf(ops, await ask({ timeoutMs: leftMs, signal }));
    } catch (error) {
      if (error instanceof DeadlineExceededError && missing !== undefined) {
        throw tooLate(missing, timeoutMs);
      }
      throw error;
    }
    if (missing.length === 0) {
      return;
    }
    if (performance.now() >= until) {
      throw tooLate(missing, timeoutMs);
    }
    await pause(signal);
  }
}

async function pause(signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(INTERVAL_MS, undefined, { signal });
  } catch (cause) {
    throw signal === undefined ? new CancelledError("the wait was ended", { cause }) : abortedError(signal);
  }
}

function opsOf(given: string | readonly string[]): readonly string[] {
  const ops: unknown = typeof given === "string" ? [given] : given;
  if (!Array.isArray(ops)) {
    throw bad("ops", given, "an op or a list of ops");
  }
  if (ops.length === 0) {
    throw new InvalidRequestError("ops is empty; name at least one op", { details: { field: "ops" } });
  }
  return ops.map((op: string) => checkOp(op));
}

function missingOf(ops: readonly string[], { workers }: MeshStatus): readonly string[] {
  const served = new Set(workers.filter(({ state }) => state === "ready").flatMap((worker) => worker.ops));
  return ops.filter((op) => !served.has(op));
}

function tooLate(missing: readonly string[], timeoutMs: number): NoWorkerError {
  return new NoWorkerError(`no ready worker for ${missing.join(", ")} within ${timeoutMs / 1000} s`);
}
