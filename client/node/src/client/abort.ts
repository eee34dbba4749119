/** Signals that end calls. Many calls may share one signal: it gets one listener, and none once they have ended. */

import { CancelledError } from "../errors.js";

const watched = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Have something done when a signal aborts.
 *
 * @returns a function that undoes this.
 */
export function onAbort(signal: AbortSignal, act: () => void): () => void {
  let acts = watched.get(signal);
  if (acts === undefined) {
    acts = new Set();
    watched.set(signal, acts);
  }
  if (acts.size === 0) {
    signal.addEventListener("abort", aborted);
  }
  acts.add(act);
  return () => {
    if (acts.delete(act) && acts.size === 0) {
      signal.removeEventListener("abort", aborted);
    }
  };
}

function aborted(this: AbortSignal): void {
  for (const act of [...(watched.get(this) ?? [])]) {
    act();
  }
}

/** Return what a call gets whose signal aborted. */
export function abortedError(signal: AbortSignal): CancelledError {
  return new CancelledError("the call was aborted by its signal", { cause: signal.reason });
}

/** @throws {@link CancelledError} if the signal has aborted already. */
export function checkNotAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw abortedError(signal);
  }
}
