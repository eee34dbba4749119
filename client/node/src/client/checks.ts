/** What callers give is checked here, before anything is sent. Every refusal names the field and what is allowed. */

import { createHash } from "node:crypto";

import { InvalidRequestError, TooLargeError } from "../errors.js";
import type { RequestOptions, StreamOptions } from "../options.js";
import { sizeOf } from "./incoming.js";
import type { Call } from "../session/pending.js";
import {
  AFFINITY_MAX_BYTES,
  FRAMES_MAX,
  HEADER_MAX_BYTES,
  MESSAGE_MAX_BYTES,
  MODEL_MAX_CHARS,
  OP_MAX_CHARS,
  REMAINING_MAX_MS,
  TRACEPARENT_MAX_CHARS,
  WINDOW_MAX_CHUNKS,
} from "../wire/limits.js";
import { Flag, Lane } from "../wire/messages.js";
import type { LaneNumber } from "../wire/messages.js";

export const DEFAULT_TIMEOUT_MS = 60_000;

/** Stream credit: enough to hide a round trip, little enough that a slow reader holds few chunks. */
export const WINDOW = 16;

export const BODY_MAX_BYTES = MESSAGE_MAX_BYTES - HEADER_MAX_BYTES;
export const BODY_MAX_FRAMES = FRAMES_MAX - 1;

const NO_BYTES = new Uint8Array(0);

const CALL_FIELDS = ["model", "timeoutMs", "lane", "atMostOnce", "waitForReady", "traceparent", "signal"] as const;

/** Fields of {@link RequestOptions}. */
export const REQUEST_FIELDS: ReadonlySet<string> = new Set([...CALL_FIELDS, "cache", "affinity"]);
/** Fields of {@link StreamOptions}. */
export const STREAM_FIELDS: ReadonlySet<string> = new Set([...CALL_FIELDS, "affinity", "window"]);
/** Fields of {@link EmbedOptions}. */
export const EMBED_FIELDS: ReadonlySet<string> = new Set([...CALL_FIELDS, "cache", "normalize"]);
/** Fields of {@link GenerateOptions} and {@link ChatOptions} beside those of sampling. */
export const GENERATE_FIELDS: ReadonlySet<string> = new Set([...CALL_FIELDS, "window"]);

/**
 * Refuse options that are no object, or have a field that is none of those: a `timeout` would else be no timeout.
 *
 * @throws {@link InvalidRequestError}
 */
export function checkFields(options: object, allowed: ReadonlySet<string>): void {
  const given: unknown = options;
  if (typeof given !== "object" || given === null) {
    throw bad("options", given, "an object");
  }
  for (const field in given) {
    if (!allowed.has(field)) {
      throw new InvalidRequestError(`${shown(field)} is no option; there are ${[...allowed].join(", ")}`, {
        details: { field },
      });
    }
  }
}

/**
 * Return the request for an op and an encoded body.
 *
 * Buffers behind the body are copied: they belong to the caller, who may change or transfer them before the call ends,
 * while it may have to be sent again.
 *
 * @throws {@link InvalidRequestError} naming the option.
 * @throws {@link TooLargeError} the broker would not take the message.
 */
export function requestOf(
  op: string,
  frames: readonly Uint8Array[],
  options: RequestOptions & StreamOptions,
  window = 0,
): Call {
  const size = sizeOf(frames);
  if (size > BODY_MAX_BYTES) {
    throw new TooLargeError(`body has ${size} bytes, allowed are ${BODY_MAX_BYTES}`, {
      details: { field: "body", limit: BODY_MAX_BYTES },
    });
  }
  const { lane } = options;
  const flags =
    (checkSwitch("atMostOnce", options.atMostOnce, false) ? Flag.AT_MOST_ONCE : 0) |
    (checkSwitch("waitForReady", options.waitForReady, false) ? Flag.WAIT_FOR_READY : 0) |
    (checkSwitch("cache", options.cache, true) ? 0 : Flag.FRESH);
  return {
    op,
    model: checkText("model", options.model ?? "", 0, MODEL_MAX_CHARS),
    lane: lane === undefined ? Lane.standard : checkLane(lane),
    timeoutMs: checkTimeout(options.timeoutMs ?? DEFAULT_TIMEOUT_MS),
    flags,
    window,
    affinity: options.affinity === undefined ? NO_BYTES : affinityOf(options.affinity),
    traceparent: checkText("traceparent", options.traceparent ?? "", 0, TRACEPARENT_MAX_CHARS),
    frames: frames.length > 1 ? frames.map((frame, index) => (index > 0 ? frame.slice() : frame)) : frames,
  };
}

/** Return the name of an op if it can be one. */
export function checkOp(op: string): string {
  return checkText("op", op, 1, OP_MAX_CHARS);
}

/** Return a stream window if it is one. */
export function checkWindow(window: number | undefined): number {
  return window === undefined ? WINDOW : countOf("window", window, 1, WINDOW_MAX_CHUNKS);
}

/** Return an integer within its bounds. */
export function countOf(field: string, given: unknown, low: number, high: number): number {
  if (typeof given !== "number" || !Number.isInteger(given) || given < low || given > high) {
    throw bad(field, given, `an integer from ${low} to ${high}`);
  }
  return given;
}

/** Return the milliseconds that something may take, if they are a time. */
export function checkTimeout(timeoutMs: number, field = "timeoutMs", low = Number.MIN_VALUE): number {
  if (typeof timeoutMs !== "number" || !(timeoutMs >= low && timeoutMs <= REMAINING_MAX_MS)) {
    throw bad(field, timeoutMs, `milliseconds ${low ? "above 0" : "from 0"} and up to ${REMAINING_MAX_MS}`);
  }
  return timeoutMs;
}

/** Return a signal if it is one. */
export function checkSignal(signal: AbortSignal | undefined): AbortSignal | undefined {
  if (signal !== undefined && !isSignal(signal)) {
    throw bad("signal", signal, "an AbortSignal");
  }
  return signal;
}

/** Return a string of so many characters that UTF-8 can carry. */
export function checkText(field: string, text: string, low: number, high: number): string {
  const fits = typeof text === "string" && text.isWellFormed() && text.length >= low && charsWithin(text, high);
  if (!fits) {
    throw bad(field, text, low ? `a string of ${low} to ${high} characters` : `a string of at most ${high} characters`);
  }
  return text;
}

/** Return what is wrong with something that was given. */
export function bad(field: string, given: unknown, allowed: string): InvalidRequestError {
  return new InvalidRequestError(`${field} is ${shown(given)}; allowed: ${allowed}`, { details: { field } });
}

function checkLane(lane: string): LaneNumber {
  if (typeof lane !== "string" || !Object.hasOwn(Lane, lane)) {
    throw bad("lane", lane, Object.keys(Lane).join(", "));
  }
  return Lane[lane as keyof typeof Lane];
}

/** Return a switch, or what it is where it is left out. */
export function checkSwitch(field: string, on: boolean | undefined, otherwise: boolean): boolean {
  if (on !== undefined && typeof on !== "boolean") {
    throw bad(field, on, "true or false");
  }
  return on ?? otherwise;
}

function affinityOf(key: string | Uint8Array): Uint8Array {
  if (typeof key !== "string" && !(key instanceof Uint8Array)) {
    throw bad("affinity", key, "a string or a Uint8Array");
  }
  const bytes = typeof key === "string" ? new TextEncoder().encode(key) : copied(key);
  return bytes.length <= AFFINITY_MAX_BYTES ? bytes : createHash("sha256").update(bytes).digest();
}

function copied(key: Uint8Array): Uint8Array {
  try {
    return key.slice();
  } catch {
    throw bad("affinity", key, "a Uint8Array whose memory was not transferred");
  }
}

function isSignal(signal: unknown): boolean {
  return (
    typeof signal === "object" &&
    signal !== null &&
    "aborted" in signal &&
    "addEventListener" in signal &&
    typeof signal.addEventListener === "function"
  );
}

/** The halves of surrogate pairs count once. */
function charsWithin(text: string, high: number): boolean {
  return text.length <= high || (text.length <= 2 * high && Array.from(text).length <= high);
}

const SHOWN_MAX_CHARS = 80;

/** Return a value as an error message shows it: short, and whatever it is. */
export function shown(given: unknown): string {
  if (typeof given === "string") {
    return JSON.stringify(given.slice(0, SHOWN_MAX_CHARS));
  }
  if (typeof given === "object" && given !== null) {
    return Array.isArray(given) ? "an array" : `a ${Object.prototype.toString.call(given).slice(8, -1)}`;
  }
  return typeof given === "function" ? "a function" : `${String(given)}${typeof given === "bigint" ? "n" : ""}`;
}
