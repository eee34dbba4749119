/** What came for a stream and was not read yet. Credit bounds it: it never has more chunks than the window. */

import type { MeshError } from "../errors.js";
import type { Outcome } from "../session/pending.js";
import type { Final } from "../wire/messages.js";

const NO_FRAMES: readonly Uint8Array[] = [];

/** Chunks and, after them, the outcome. */
export class Feed {
  outcome: Outcome | undefined;
  /** Those of the outcome, if it is a result. */
  frames: readonly Uint8Array[] = NO_FRAMES;
  /** Since when the worker may have to wait; undefined if the reader keeps up. */
  fullSince: number | undefined;
  private chunks: (readonly Uint8Array[])[] = [];
  private first = 0;
  private waiting: { readonly promise: Promise<void>; readonly wake: () => void } | undefined;
  private readonly acts: (() => void)[] = [];

  constructor(private readonly window: number) {}

  /** How many chunks are unread. */
  get size(): number {
    return this.chunks.length - this.first;
  }

  /** The next chunk, undefined if there is none now. */
  shift(): readonly Uint8Array[] | undefined {
    const chunk = this.chunks[this.first];
    if (chunk !== undefined) {
      this.first += 1;
      if (this.first === this.chunks.length) {
        this.clear();
      }
    }
    return chunk;
  }

  /** Forget what was not read. */
  clear(): void {
    this.chunks = [];
    this.first = 0;
  }

  /** A chunk came. */
  readonly piece = (frames: readonly Uint8Array[]): void => {
    this.chunks.push(frames);
    // Credit comes half a window at a time: a worker that has to wait has filled more than half.
    if (this.size * 2 > this.window) {
      this.fullSince ??= performance.now();
    }
    this.wake();
  };

  /** It ended; of several ends the first counts. */
  readonly done = (outcome: Final | MeshError, frames: readonly Uint8Array[] = NO_FRAMES): void => {
    if (this.outcome === undefined) {
      this.outcome = outcome;
      this.frames = frames;
      for (const act of this.acts.splice(0)) {
        act();
      }
      this.wake();
    }
  };

  /** It ends with an error, even if its result is there already. */
  fail(why: MeshError): void {
    if (this.outcome === undefined) {
      this.done(why);
    } else {
      this.outcome = why;
    }
  }

  /** Have something done at the end. */
  whenDone(act: () => void): void {
    if (this.outcome === undefined) {
      this.acts.push(act);
    } else {
      act();
    }
  }

  /** Return when there is something new. */
  change(): Promise<void> {
    if (this.waiting === undefined) {
      let wake = (): void => undefined;
      const promise = new Promise<void>((resolve) => (wake = resolve));
      this.waiting = { promise, wake };
    }
    return this.waiting.promise;
  }

  private wake(): void {
    this.waiting?.wake();
    this.waiting = undefined;
  }
}
