/** Chunks of an op as they come. */

import { CancelledError, InternalError, MeshError } from "../errors.js";
import type { Call, Pending } from "../session/pending.js";
import { unpackBody } from "../wire/body.js";
import { abortedError, checkNotAborted, onAbort } from "./abort.js";
import { Feed } from "./feed.js";
import type { Link } from "./link.js";
import { retold } from "./retold.js";

/** A worker that had to wait so long for the reader is told of as an event. */
export const SLOW_MS = 1000;

/**
 * Chunks of an op, to be iterated over once; nothing is sent before that begins.
 *
 * Leaving the loop early, by `break` or by an error, cancels the call. A reader that is slow lets the worker wait:
 * no more than the window is kept here.
 */
export class Stream<T = unknown> implements AsyncIterableIterator<T, undefined>, AsyncDisposable {
  private readonly feed: Feed;
  private pending: Pending | undefined;
  private started = false;
  private hasLeft = false;
  private ending: Promise<unknown> | undefined;
  private value: { readonly of: unknown } | undefined;

  /** @internal */
  constructor(
    private readonly link: Link,
    private readonly call: Call,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.feed = new Feed(call.window);
  }

  /** How often it went on in another worker after chunks had come. */
  get moved(): number {
    return this.pending?.moved ?? 0;
  }

  /** Whether the reader left before the end. */
  get left(): boolean {
    return this.hasLeft;
  }

  /** The final value, once all chunks were read; undefined before. */
  get result(): unknown {
    return this.value?.of;
  }

  /**
   * The final value, as soon as it is there; rejected if the call fails, or its reader leaves.
   *
   * If nobody has begun to read the stream in this turn of the event loop, its chunks are thrown away.
   */
  get final(): Promise<unknown> {
    if (this.ending === undefined) {
      this.ending = this.ended();
      this.ending.catch(() => undefined); // Whoever reads the chunks is told as well.
      setImmediate(() => {
        if (!this.started) {
          void this.drain();
        }
      });
    }
    return this.ending;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /** The next chunk. @throws {@link MeshError} the call failed. */
  async next(): Promise<IteratorResult<T, undefined>> {
    try {
      this.start();
      let frames = this.feed.shift();
      while (frames === undefined && this.feed.outcome === undefined) {
        await this.feed.change();
        frames = this.feed.shift();
      }
      if (frames !== undefined) {
        return { value: this.chunk(frames), done: false };
      }
      if (!this.hasLeft) {
        this.value = { of: this.finalValue() };
      }
      return { value: undefined, done: true };
    } catch (error) {
      throw retold(error);
    }
  }

  /** Cancel the call if it has not ended. */
  return(): Promise<IteratorResult<T, undefined>> {
    if (this.value === undefined && !(this.feed.outcome instanceof MeshError)) {
      this.hasLeft = true;
      this.stop(new CancelledError("the reader left the stream"));
    }
    return Promise.resolve({ value: undefined, done: true });
  }

  private start(): void {
    if (this.started) {
      return;
    }
    this.started = true;
    const { feed, signal } = this;
    if (feed.outcome !== undefined) {
      return; // It was left before it began.
    }
    try {
      checkNotAborted(signal);
      this.pending = this.link.begin(this.call, feed.done, feed.piece);
    } catch (error) {
      feed.done(error instanceof MeshError ? error : new InternalError("the call cannot be sent", { cause: error }));
    }
    if (signal !== undefined && this.feed.outcome === undefined) {
      feed.whenDone(
        onAbort(signal, () => {
          this.stop(abortedError(signal));
        }),
      );
    }
  }

  private chunk(frames: readonly Uint8Array[]): T {
    const { feed, pending } = this;
    if (pending !== undefined) {
      this.link.read(pending);
    }
    if (feed.fullSince !== undefined) {
      const waitedMs = performance.now() - feed.fullSince;
      feed.fullSince = undefined;
      if (waitedMs >= SLOW_MS) {
        this.link.emit({ type: "slow", op: this.call.op, waitedMs });
      }
    }
    try {
      return unpackBody(frames) as T;
    } catch (error) {
      this.stop(error as MeshError);
      throw error;
    }
  }

  /** Nobody wants what is still to come. */
  private stop(why: MeshError): void {
    if (this.pending !== undefined) {
      this.link.cancel(this.pending, this.hasLeft ? undefined : why);
    }
    this.feed.clear();
    this.feed.fail(why);
  }

  private finalValue(): unknown {
    const { outcome, frames } = this.feed;
    if (outcome instanceof MeshError) {
      throw outcome;
    }
    return unpackBody(frames);
  }

  private async ended(): Promise<unknown> {
    await new Promise<void>((resolve) => {
      this.feed.whenDone(resolve);
    });
    try {
      return this.finalValue();
    } catch (error) {
      throw retold(error);
    }
  }

  private async drain(): Promise<void> {
    try {
      while (!(await this.next()).done);
    } catch {
      // It is told by `final`.
    }
  }
}
