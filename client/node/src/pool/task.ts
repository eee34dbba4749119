/** A task of a pool, from `run` to its end. */

import { abortedError, onAbort } from "../client/abort.js";
import type { MeshError } from "../errors.js";
import { DeadlineExceededError } from "../errors.js";
import type { Call } from "../session/pending.js";

/** One promise that a pool has given, which is kept once. */
export class Task {
  readonly since = performance.now();
  readonly result: Promise<unknown>;
  /** Ends its call. It is one of its own only where its caller may abort: listeners cost more than the rest of a task. */
  readonly signal: AbortSignal;
  private readonly ender: AbortController | undefined;
  private resolve!: (value: unknown) => void;
  private reject!: (error: unknown) => void;
  private timer: NodeJS.Timeout | undefined;
  private readonly forget: (() => void) | undefined;

  /**
   * @param signal - of its caller.
   * @param shared - ends all tasks of the pool.
   * @param onGivenUp - called when its signal aborts, or its time is over before it was begun.
   */
  constructor(
    readonly call: Call,
    signal: AbortSignal | undefined,
    shared: AbortSignal,
    private readonly onGivenUp: (task: Task, why: MeshError) => void,
  ) {
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.ender = signal && new AbortController();
    this.signal = this.ender?.signal ?? shared;
    if (signal !== undefined) {
      this.forget = onAbort(signal, () => {
        onGivenUp(this, abortedError(signal));
      });
    }
  }

  /** What is left of its time, in milliseconds. */
  get leftMs(): number {
    return Math.max(1, this.since + this.call.timeoutMs - performance.now());
  }

  /** It has to wait: nobody but the pool looks after its time. */
  wait(): void {
    const { op, timeoutMs } = this.call;
    this.timer = setTimeout(() => {
      this.onGivenUp(this, new DeadlineExceededError(`no place in this pool for '${op}' within ${timeoutMs / 1000} s`));
    }, timeoutMs);
  }

  /** It is begun: the client looks after its time. */
  begin(): void {
    clearTimeout(this.timer);
  }

  succeed(value: unknown): void {
    this.leave();
    this.resolve(value);
  }

  fail(why: unknown): void {
    this.leave();
    this.reject(why);
    this.ender?.abort(why);
  }

  private leave(): void {
    clearTimeout(this.timer);
    this.forget?.();
  }
}
