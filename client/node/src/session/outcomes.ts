/** The errors that calls end with, and what they say. */

import { CancelledError, DeadlineExceededError, DecodeError, errorFromWire, OverloadedError } from "../errors.js";
import type { ErrorDetails, MeshError } from "../errors.js";
import { unpackBody } from "../wire/body.js";
import type { ErrorMessage } from "../wire/messages.js";
import { WAITING_MAX } from "./lanes.js";
import type { Call } from "./pending.js";

/** Return what one call too many gets. */
export function fullError(): MeshError {
  return new OverloadedError(
    `${WAITING_MAX} calls wait in this client already; send fewer at once, or open another client`,
  );
}

/** Return what calls of a closed client get. */
export function closedError(): MeshError {
  return new CancelledError("this client is closed; make a new one");
}

/**
 * Return what a call gets at its deadline.
 *
 * @param silentEndpoint - where no broker has answered; undefined if one has.
 */
export function expiredError(call: Call, silentEndpoint: string | undefined): MeshError {
  const within = `within ${call.timeoutMs / 1000} s`;
  return new DeadlineExceededError(
    silentEndpoint === undefined
      ? `no answer to '${call.op}' ${within}`
      : `no broker answered at ${silentEndpoint} ${within}; start one with \`mlx-mesh up\`, or say where it is with ` +
          "MLX_MESH_ENDPOINT",
  );
}

/** Return the error that an ERROR message tells of; details that are no map are none. */
export function toldError(told: ErrorMessage, frames: readonly Uint8Array[]): MeshError {
  return errorFromWire(told.code, told.message, told.retryable, told.retryAfterMs, detailsOf(frames));
}

function detailsOf(frames: readonly Uint8Array[]): ErrorDetails {
  if (frames.length === 0) {
    return {};
  }
  let details: unknown;
  try {
    details = unpackBody(frames);
  } catch (error) {
    if (error instanceof DecodeError) {
      return {};
    }
    throw error;
  }
  return isMap(details) ? details : {};
}

function isMap(value: unknown): value is ErrorDetails {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
