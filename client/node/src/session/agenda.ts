/** Deadlines and retries of calls, in order. Calls that ended are dropped once they are the larger part. */

import type { Pending } from "./pending.js";

/** Below that a rebuild costs more than it frees. */
export const STALE_MAX = 256;

/** A call whose time has come, and whether it is to be tried again. */
export interface Item {
  readonly pending: Pending;
  readonly retry: boolean;
}

interface Entry extends Item {
  readonly when: number;
  readonly count: number;
}

/** What is to be done with which call at what time: a binary heap, equal times in the order they were noted. */
export class Agenda {
  private entries: Entry[] = [];
  private count = 0;
  private stale = 0;

  /** How many there are, those of ended calls included. */
  get size(): number {
    return this.entries.length;
  }

  /** Every call that something is noted for, in no order. */
  *[Symbol.iterator](): Generator<Pending, void> {
    for (const { pending } of this.entries) {
      yield pending;
    }
  }

  /** Note the deadline of a call, or when to try it again. */
  add(when: number, pending: Pending, retry: boolean): void {
    this.count += 1;
    const entry = { when, count: this.count, pending, retry };
    this.entries.push(entry);
    this.rise(entry, this.entries.length - 1);
  }

  /** Remove and return a call whose time has come, undefined if there is none. */
  due(now: number): Item | undefined {
    for (let first = this.entries[0]; first !== undefined && first.when <= now; first = this.entries[0]) {
      this.pop();
      if (!first.pending.ended) {
        return first;
      }
      this.stale -= first.retry ? 0 : 1;
    }
    return undefined;
  }

  /** Return when `due` has something next; nobody is to be woken for a call that has ended. */
  next(): number | undefined {
    let first = this.entries[0];
    for (; first?.pending.ended; first = this.entries[0]) {
      this.pop();
      this.stale -= first.retry ? 0 : 1;
    }
    return first?.when;
  }

  /** A call ended; its deadline is still in here. The cost of dropping it is constant on average. */
  ended(): void {
    this.stale += 1;
    if (this.stale > STALE_MAX && this.stale * 2 > this.entries.length) {
      // A sorted list is a heap.
      this.entries = this.entries.filter((entry) => !entry.pending.ended).sort((a, b) => (before(a, b) ? -1 : 1));
      this.stale = 0;
    }
  }

  private pop(): void {
    const last = this.entries.pop();
    if (last !== undefined && this.entries.length > 0) {
      this.sink(last);
    }
  }

  private rise(entry: Entry, from: number): void {
    const { entries } = this;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = entries[above];
      if (parent === undefined || before(parent, entry)) {
        break;
      }
      entries[at] = parent;
      at = above;
    }
    entries[at] = entry;
  }

  private sink(entry: Entry): void {
    const { entries } = this;
    let at = 0;
    for (;;) {
      const left = entries[2 * at + 1];
      const right = entries[2 * at + 2];
      const toRight = left !== undefined && right !== undefined && before(right, left);
      const child = toRight ? right : left;
      if (child === undefined || before(entry, child)) {
        break;
      }
      entries[at] = child;
      at = 2 * at + (toRight ? 2 : 1);
    }
    entries[at] = entry;
  }
}

function before(one: Entry, other: Entry): boolean {
  return one.when < other.when || (one.when === other.when && one.count < other.count);
}
