/** When the broker was heard and spoken to, and what its silence asks for. */

import type { Numbers } from "../wire/messages.js";

/**
 * With work outstanding the session is looked after every `pingMs`. This much later means that the process was stopped,
 * or that its event loop was blocked.
 */
export const PAUSE_MS = 1000;

/** An idle client says something this often, so that the broker does not forget it. */
export const KEEPALIVE_MS = 30_000;

/** What to do: connect anew, ask whether the broker is there, or only show that this client is. */
export type Need = "reconnect" | "ping" | "keepalive";

/** Times of one connection after the other, all in ms by the clock that the session is given. */
export class Pulse {
  pingMs = 1000;
  silentMs = 5000;
  private heard = 0;
  private said = 0;
  private pinged = 0;
  private awake = 0;

  /** A connection was made. */
  connected(now: number): void {
    this.heard = this.pinged = this.awake = now;
  }

  /** Something was said that keeps this client in the broker's mind. */
  spoke(now: number): void {
    this.said = now;
  }

  /** A call was begun, so the process does run. */
  ran(now: number): void {
    this.awake = now;
  }

  /** A message came. */
  hear(now: number): void {
    this.heard = this.awake = now;
  }

  /** The first call is outstanding: silence counts from when there is something to hear. */
  expect(now: number): void {
    this.heard = Math.max(this.heard, now);
  }

  /** Take the intervals of a WELCOME. One of 0 is none: the client would ping, or connect anew, without end. */
  adopt(intervals: Numbers): void {
    this.pingMs = positive(intervals, "ping_ms") ?? 1000;
    this.silentMs = positive(intervals, "silent_ms") ?? 5000;
  }

  /** Not having run is no silence of the broker: what it said meanwhile has not been read yet. */
  noticePause(now: number): void {
    const asleep = now - this.awake;
    this.awake = now;
    if (asleep > PAUSE_MS + this.pingMs) {
      this.heard = Math.min(now, this.heard + asleep);
    }
  }

  /**
   * Return what is to be done at this time, taking it that it is then done.
   *
   * @param busy - whether there is something to hear.
   */
  check(now: number, busy: boolean): Need | undefined {
    if (busy && now - this.heard >= this.silentMs) {
      this.heard = now;
      return "reconnect";
    }
    if (busy && now - Math.max(this.heard, this.pinged) >= this.pingMs) {
      this.pinged = now;
      return "ping";
    }
    if (now - this.said >= KEEPALIVE_MS) {
      this.said = now;
      return "keepalive";
    }
    return undefined;
  }

  /** Return when `check` has something to tell. */
  due(busy: boolean): number {
    const keepalive = this.said + KEEPALIVE_MS;
    if (!busy) {
      return keepalive;
    }
    return Math.min(keepalive, Math.max(this.heard, this.pinged) + this.pingMs, this.heard + this.silentMs);
  }
}

/** Return a number of a map of WELCOME; what the map only inherits is none. */
export function named(numbers: Numbers, name: string): number | undefined {
  return Object.hasOwn(numbers, name) ? numbers[name] : undefined;
}

function positive(numbers: Numbers, name: string): number | undefined {
  const value = named(numbers, name);
  return value === 0 ? undefined : value;
}
