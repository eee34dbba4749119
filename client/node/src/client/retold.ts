/** Errors are made where a message comes in; callers want the stack of their own call. */

import { MeshError } from "../errors.js";
import type { ErrorOptions } from "../errors.js";

/**
 * Return an error like the given one, with the stack of here: called after an `await` in the function that the caller
 * awaits, that is the caller's. Nothing is paid for it by calls that succeed.
 *
 * Calls that end for one reason share its error, so that one is never changed.
 */
export function retold(error: unknown): unknown {
  if (!(error instanceof MeshError)) {
    return error;
  }
  const { retryable, retryAfterMs, details } = error;
  const options: ErrorOptions = { retryable, retryAfterMs, details };
  const Kind = error.constructor as new (message: string, options: ErrorOptions) => MeshError;
  return new Kind(error.message, "cause" in error ? { ...options, cause: error.cause } : options);
}
