/** When a connection is to be made anew. */

/** Connections are not made more often than this. */
export const REDIAL_MS = 50;
export const REDIAL_MAX_MS = 1000;

/** After this long without a fault the next one counts as the first. */
export const FORGIVEN_MS = 10_000;

/** The pauses between connections: longer ones the more of them were no good. */
export class Redial {
  /** When to make it anew; undefined if there is no need. */
  at: number | undefined;
  /** Faults that followed one another. */
  faults = 0;
  private dialedAt = 0;
  private faultAt = -Infinity;

  /** A connection was made. */
  dialed(now: number): void {
    this.at = undefined;
    this.dialedAt = now;
  }

  /** It is no use any more, though nothing is wrong with whom it leads to. */
  soon(now: number): void {
    this.at ??= Math.max(now, this.dialedAt + REDIAL_MS);
  }

  /** Something is wrong; return whether that is news. */
  failed(now: number): boolean {
    if (this.at !== undefined) {
      return false;
    }
    this.faults = now - this.faultAt > FORGIVEN_MS ? 1 : this.faults + 1;
    this.faultAt = now;
    this.at = now + Math.min(REDIAL_MAX_MS, REDIAL_MS * 2 ** this.faults);
    return true;
  }

  /** Whether its time has come. */
  isDue(now: number): boolean {
    return this.at !== undefined && now >= this.at;
  }
}
