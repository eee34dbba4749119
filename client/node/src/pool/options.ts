/** What may be said about a pool and its tasks. */

import { bad, checkFields, checkOp, checkTimeout, countOf, REQUEST_FIELDS } from "../client/checks.js";
import { Mesh } from "../client/mesh.js";
import { InvalidRequestError } from "../errors.js";
import type { RequestOptions } from "../options.js";
import { OUTSTANDING_MAX } from "../wire/limits.js";

/** Tasks that a pool may have under way: what a broker gives one client at most, and as many more as may wait for it. */
export const CONCURRENT_MAX = 1024;

/** Tasks that may be told to wait in a pool: those of `"auto"` at most. */
export const QUEUE_MAX = CONCURRENT_MAX ** 2;

const DEFAULT_MAX_QUEUE = 1024;
const DEFAULT_CLOSE_TIMEOUT_MS = 30_000;

const POOL_FIELDS: ReadonlySet<string> = new Set([
  ...["mesh", "endpoint", "keys", "name", "concurrentTasks", "maxQueue", "closeTimeout", "defaults"],
]);
const DEFAULTS_FIELDS: ReadonlySet<string> = new Set([...REQUEST_FIELDS].filter((field) => field !== "signal"));
const TASK_FIELDS: ReadonlySet<string> = new Set(["op", "payload"]);
const RUN_FIELDS: ReadonlySet<string> = new Set([...REQUEST_FIELDS, "name"]);

/** How to make a pool; all of it has a default. */
export interface PoolOptions {
  /** A client to be shared, which outlives the pool; without one the pool makes its own. */
  readonly mesh?: Mesh | undefined;
  /** As of `connect`. */
  readonly endpoint?: string | undefined;
  /** As of `connect`. */
  readonly keys?: string | undefined;
  /** The op of tasks that name none. */
  readonly name?: string | null | undefined;
  /** Tasks that the pool has under way at once; 64 by default, which is what a broker gives one client. */
  readonly concurrentTasks?: number | undefined;
  /** Tasks that may wait in the pool, 1024 by default; `"auto"` is the square of `concurrentTasks`. */
  readonly maxQueue?: number | "auto" | undefined;
  /** How long `close` waits for tasks, in milliseconds; 30,000 by default. */
  readonly closeTimeout?: number | undefined;
  /** Options of all tasks that do not say otherwise: `lane`, `model`, `timeoutMs`, ... */
  readonly defaults?: Omit<RequestOptions, "signal"> | undefined;
}

/** What a pool goes by. */
export interface FilledPoolOptions {
  readonly name: string | undefined;
  readonly concurrentTasks: number;
  readonly maxQueue: number;
  /** In milliseconds. */
  readonly closeTimeout: number;
  readonly defaults: Omit<RequestOptions, "signal">;
}

/** What is to be done. */
export interface PoolTask<T = unknown> {
  /** By default that of the pool. */
  readonly op?: string | undefined;
  /** What {@link Mesh.call} takes. It is copied when the task is given. */
  readonly payload: T;
}

/** What {@link Pool.run} takes; times are in milliseconds. */
export interface RunOptions extends Omit<RequestOptions, "signal"> {
  /** The op, before that of the task. */
  readonly name?: string | null | undefined;
  /** Ends the task with a `CancelledError`, in the worker too. */
  readonly signal?: AbortSignal | null | undefined;
}

/** What {@link Pool.close} takes. */
export interface PoolCloseOptions {
  /** Whether tasks that wait in the pool are ended at once, instead of run; false by default. */
  readonly force?: boolean | undefined;
}

/** Return options with their defaults. @throws {@link InvalidRequestError} naming the option. */
export function filledOf(options: PoolOptions): FilledPoolOptions {
  checkFields(options, POOL_FIELDS);
  const { mesh, name, defaults = {}, closeTimeout = DEFAULT_CLOSE_TIMEOUT_MS } = options;
  if (mesh !== undefined && !(mesh instanceof Mesh)) {
    throw bad("mesh", mesh, "what `connect` returns");
  }
  for (const field of ["endpoint", "keys"] as const) {
    if (mesh !== undefined && options[field] !== undefined) {
      throw new InvalidRequestError(`${field} is that of the mesh; give one of both`, { details: { field } });
    }
  }
  checkFields(defaults, DEFAULTS_FIELDS);
  const concurrentTasks = countOf("concurrentTasks", options.concurrentTasks ?? OUTSTANDING_MAX, 1, CONCURRENT_MAX);
  const { maxQueue = DEFAULT_MAX_QUEUE } = options;
  return Object.freeze({
    name: name === null || name === undefined ? undefined : checkOp(name),
    concurrentTasks,
    maxQueue: maxQueue === "auto" ? concurrentTasks ** 2 : countOf("maxQueue", maxQueue, 0, QUEUE_MAX),
    closeTimeout: checkTimeout(closeTimeout, "closeTimeout", 0),
    defaults: Object.freeze({ ...defaults }),
  });
}

/** Return the op of a task. @throws {@link InvalidRequestError} it is no task, or no op is named. */
export function opOf(task: PoolTask, options: RunOptions, pool: FilledPoolOptions): string {
  const given: unknown = task;
  if (typeof given !== "object" || given === null || !("payload" in given)) {
    throw bad("task", given, "an object with op and payload");
  }
  checkFields(task, TASK_FIELDS);
  checkFields(options, RUN_FIELDS);
  const op = options.name ?? task.op ?? pool.name;
  if (op === undefined) {
    throw new InvalidRequestError("op is missing; name one in the task, or for the pool", { details: { field: "op" } });
  }
  return checkOp(op);
}
