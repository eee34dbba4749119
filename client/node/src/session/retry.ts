/** When to send a refused request again: jittered exponential backoff, within a budget. */

import type { MeshError } from "../errors.js";

export const BACKOFF_FIRST_MS = 50;
export const BACKOFF_MAX_MS = 2000;
export const BUDGET_MAX = 10;
/** A retry costs one token; every request earns a tenth, up to ten: a broken mesh sees at most 10% more traffic. */
export const BUDGET_PER_REQUEST = 0.1;

/** Tokens for retries, shared by all calls of one client. */
export class RetryBudget {
  private tokens = BUDGET_MAX;

  /** @param random - numbers from 0 to 1, for jitter. */
  constructor(private readonly random: () => number) {}

  /** A request was made. */
  earn(): void {
    this.tokens = Math.min(BUDGET_MAX, this.tokens + BUDGET_PER_REQUEST);
  }

  /** Return how long to wait before trying again, undefined to give up. */
  pauseMs(error: MeshError, retries: number): number | undefined {
    if (!error.retryable || this.tokens < 1) {
      return undefined;
    }
    this.tokens -= 1;
    const backoffMs = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** retries);
    // The jitter only adds to what the broker asked for: sooner, it would refuse again.
    return Math.max(error.retryAfterMs, backoffMs * 0.5) + backoffMs * this.random();
  }
}
