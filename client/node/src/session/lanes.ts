/** Calls that wait in the client for one of the places that the broker grants it, or a pool has. */

import type { LaneNumber } from "../wire/messages.js";

/** Calls that may wait; one more is refused at once. */
export const WAITING_MAX = 1024;

/** What waits in a lane. */
interface Waiting {
  readonly call: { readonly lane: LaneNumber };
}

/** One queue for each lane, the higher ones first. */
export class Lanes<T extends Waiting> {
  private readonly lanes: readonly [Set<T>, Set<T>, Set<T>] = [new Set(), new Set(), new Set()];
  private count = 0;

  /** How many wait. */
  get size(): number {
    return this.count;
  }

  /** Those that wait, in the order in which they go out. */
  *[Symbol.iterator](): Generator<T, void> {
    for (const lane of this.lanes) {
      yield* lane;
    }
  }

  /** Have a call wait behind those of its lane. */
  add(pending: T): void {
    this.lanes[pending.call.lane].add(pending);
    this.count += 1;
  }

  /** A call waits no longer; return whether it did. */
  delete(pending: T): boolean {
    const waited = this.count > 0 && this.lanes[pending.call.lane].delete(pending);
    if (waited) {
      this.count -= 1;
    }
    return waited;
  }

  /** Remove and return the call that is to go out next. */
  shift(): T | undefined {
    for (const lane of this.lanes) {
      for (const pending of lane) {
        this.delete(pending);
        return pending;
      }
    }
    return undefined;
  }
}
