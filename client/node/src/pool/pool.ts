/** A pool of tasks over a mesh, in the shape of pools of threads. */

import { EventEmitter } from "node:events";

import { checkNotAborted } from "../client/abort.js";
import { checkFields, checkSignal, checkSwitch, requestOf } from "../client/checks.js";
import { connect } from "../client/connect.js";
import type { Mesh } from "../client/mesh.js";
import { retold } from "../client/retold.js";
import { CancelledError } from "../errors.js";
import type { MeshError } from "../errors.js";
import type { RequestOptions } from "../options.js";
import type { Call } from "../session/pending.js";
import { packBody } from "../wire/body.js";
import type { Final } from "../wire/messages.js";
import { filledOf, opOf } from "./options.js";
import type { FilledPoolOptions, PoolCloseOptions, PoolOptions, PoolTask, RunOptions } from "./options.js";
import { Task } from "./task.js";
import { PoolHistogram } from "./timings.js";
import { WaitingTasks } from "./waiting.js";

const CLOSE_FIELDS: ReadonlySet<string> = new Set(["force"]);

/** Events of a {@link Pool}. */
export interface PoolEvents {
  /** Every place is taken: what comes now has to wait. */
  needsDrain: [];
  /** After that: nothing waits, and there is a place again. */
  drain: [];
  /** `close` or `destroy` has done its work. */
  close: [];
}

/**
 * Return a pool. It does not wait for a broker, nor for its connection: tasks do, each within its own time.
 *
 * @throws {@link InvalidRequestError} an option is not usable; of `endpoint` and `keys` it is told by the tasks.
 */
export function createPool<T = unknown, R = unknown>(options: PoolOptions = {}): Pool<T, R> {
  const filled = filledOf(options);
  const { mesh, endpoint, keys } = options;
  return new Pool(filled, mesh === undefined ? connect({ endpoint, keys }) : Promise.resolve(mesh), mesh === undefined);
}

/**
 * Runs tasks in the workers of a mesh, a number of them at a time; what is more waits here, higher lanes first, and
 * what is too much is refused.
 */
export class Pool<T = unknown, R = unknown> extends EventEmitter<PoolEvents> implements AsyncDisposable {
  /** How long tasks waited and ran. */
  readonly histogram = new PoolHistogram();
  /** What it goes by. */
  readonly options: FilledPoolOptions;
  private readonly running = new Set<Task>();
  private readonly waiting: WaitingTasks;
  private readonly ender = new AbortController();
  private readonly since = performance.now();
  /** Milliseconds that places were taken, all of them together, up to a moment. */
  private takenMs = 0;
  private takenUntil = this.since;
  private ended = 0;
  private isFull = false;
  private closing: Promise<void> | undefined;
  private onIdle: (() => void) | undefined;

  /** @internal */
  constructor(
    options: FilledPoolOptions,
    private readonly connection: Promise<Mesh>,
    private readonly isOwner: boolean,
  ) {
    super();
    this.options = options;
    this.waiting = new WaitingTasks(options.maxQueue);
    connection.catch(() => undefined); // Tasks are told.
  }

  /** Tasks that wait in the pool. */
  get queueSize(): number {
    return this.waiting.size;
  }

  /** Tasks that were begun and have ended, well or not. */
  get completed(): number {
    return this.ended;
  }

  /** The age of the pool in milliseconds. */
  get duration(): number {
    return performance.now() - this.since;
  }

  /** Whether every place is taken. */
  get needsDrain(): boolean {
    return this.isFull;
  }

  /** From 0 to 1: how much of its places was taken since the pool was made. It says nothing of how busy workers are. */
  get utilization(): number {
    this.count();
    return this.takenMs / (Math.max(this.duration, Number.EPSILON) * this.options.concurrentTasks);
  }

  /**
   * Return the result of a task. Its time begins here, and what it waits in the pool is part of it.
   *
   * @throws {@link OverloadedError} too many wait already; nothing was sent.
   * @throws {@link MeshError} as {@link Mesh.call}.
   */
  async run(task: PoolTask<T>, options: RunOptions = {}): Promise<R> {
    const op = opOf(task, options, this.options);
    const { signal } = options;
    const call = requestOf(op, packBody(task.payload), { ...this.options.defaults, ...givenOf(options) });
    checkNotAborted(checkSignal(signal ?? undefined));
    if (this.closing !== undefined) {
      throw closedError();
    }
    try {
      return (await this.take(call, signal ?? undefined)) as R;
    } catch (error) {
      throw retold(error);
    }
  }

  /**
   * Take no more tasks, wait for those that are there, end what is left after `closeTimeout` with a
   * {@link CancelledError}, and close the client if it is the pool's own.
   */
  async close(options: PoolCloseOptions = {}): Promise<void> {
    checkFields(options, CLOSE_FIELDS);
    const force = checkSwitch("force", options.force, false);
    this.closing ??= this.leave();
    if (force) {
      this.giveUp([...this.waiting]);
    }
    await this.closing;
  }

  /** End all tasks with a {@link CancelledError}, in the workers too, and close the client if it is the pool's own. */
  async destroy(): Promise<void> {
    this.closing ??= this.leave();
    this.giveAllUp();
    await this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private take(call: Call, signal: AbortSignal | undefined): Promise<unknown> {
    const isFull = this.running.size >= this.options.concurrentTasks;
    if (isFull) {
      this.waiting.checkRoom(call);
    }
    const task = new Task(call, signal, this.ender.signal, this.drop);
    if (isFull) {
      this.waiting.add(task);
      task.wait();
    } else {
      void this.work(task);
      this.settle();
    }
    return task.result;
  }

  private async work(task: Task): Promise<void> {
    this.count();
    this.running.add(task);
    task.begin();
    let final: Final | undefined;
    try {
      const mesh = await this.connection;
      const call = { ...task.call, timeoutMs: task.leftMs };
      const value = await mesh.timed(call, task.signal, (told) => (final = told));
      this.record(task, final);
      task.succeed(value);
    } catch (error) {
      task.fail(error);
    }
    this.count();
    this.running.delete(task);
    this.ended += 1;
    this.settle();
  }

  private record(task: Task, final: Final | undefined): void {
    const runMs = (final?.serviceUs ?? 0) / 1000;
    this.histogram.record(runMs, Math.max(0, performance.now() - task.since - runMs));
  }

  /** Begin what waits as far as there are places, and tell of what has changed. */
  private settle(): void {
    const { concurrentTasks } = this.options;
    while (this.running.size < concurrentTasks) {
      const task = this.waiting.shift();
      if (task === undefined) {
        break;
      }
      void this.work(task);
    }
    const isFull = this.running.size >= concurrentTasks;
    if (isFull !== this.isFull) {
      this.isFull = isFull;
      queueMicrotask(() => this.emit(isFull ? "needsDrain" : "drain"));
    }
    if (this.running.size === 0) {
      this.onIdle?.();
    }
  }

  /** Nobody waits for a task any more. */
  private readonly drop = (task: Task, why: MeshError): void => {
    this.waiting.delete(task);
    task.fail(why);
  };

  private giveUp(tasks: readonly Task[]): void {
    for (const task of tasks) {
      this.drop(task, closedError());
    }
  }

  private giveAllUp(): void {
    this.giveUp([...this.waiting, ...this.running]);
    this.ender.abort();
  }

  private async leave(): Promise<void> {
    await this.idle();
    this.giveAllUp();
    if (this.isOwner) {
      await this.connection.then(
        (mesh) => mesh.close(),
        () => undefined,
      );
    }
    this.emit("close");
  }

  /** Return once no task is there, or after `closeTimeout`. */
  private async idle(): Promise<void> {
    if (this.running.size === 0) {
      return;
    }
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.options.closeTimeout);
      this.onIdle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Have the time that places were taken counted up to now. */
  private count(): void {
    const now = performance.now();
    this.takenMs += (now - this.takenUntil) * this.running.size;
    this.takenUntil = now;
  }
}

/** Options of a request that are given; one that is undefined does not hide a default. */
function givenOf(options: RunOptions): RequestOptions {
  const given: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(options)) {
    if (value !== undefined && field !== "name" && field !== "signal") {
      given[field] = value;
    }
  }
  return given;
}

function closedError(): CancelledError {
  return new CancelledError("this pool is closed; make a new one");
}
