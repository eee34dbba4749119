/** What is asked in the trials, and what alone is a right answer: the questions of `tests/faults/mixes`. */

import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";

/** Over what goes in a bundle. */
const LARGE_BYTES = 40_000;

/** Of calls that must not run twice: nobody can answer them any more where a broker is new, and a trial waits for it. */
const ONCE_MS = 4000;

/** Kinds of questions, and how many of each come in a time. */
const KINDS = { echo: 3, large: 1, digest: 4, once: 2, tell: 3, items: 1, hasty: 1, leave: 1 } as const;

export type Kind = keyof typeof KINDS;

const DRAWN = Object.entries(KINDS).flatMap(([kind, weight]) => Array<Kind>(weight).fill(kind as Kind));

/** One call. */
export interface Question {
  readonly kind: Kind;
  readonly op: string;
  readonly value: unknown;
  /** What has to come of it. */
  readonly result: unknown;
  /** For a stream, its chunks. */
  readonly chunks?: readonly unknown[];
  readonly timeoutMs: number;
  /** How many chunks are read before the stream is left; undefined for all. */
  readonly keep?: number;
}

/** Draw a question; `nonce` is that of no other. */
export function question(nonce: string, timeoutMs: number, chance: () => number): Question {
  const below = (high: number): number => Math.floor(chance() * high);
  const kind = DRAWN[below(DRAWN.length)] ?? "echo";
  if (kind === "tell" || kind === "leave") {
    const count = 1 + below(59);
    const chunks = Array.from({ length: count }, (_, at) => [nonce, at]);
    const asked: Question = { kind, op: "tell", value: [nonce, count], result: [nonce, count], chunks, timeoutMs };
    return kind === "leave" ? { ...asked, keep: below(count) } : asked;
  }
  if (kind === "items") {
    const chunks = Array.from({ length: 1 + below(79) }, (_, at) => [nonce, at, bytes(below(200), at)]);
    return { kind, op: "echo", value: chunks, result: chunks, chunks, timeoutMs };
  }
  const data = bytes(kind === "large" ? LARGE_BYTES : below(2000), below(256));
  if (kind === "echo" || kind === "large") {
    return { kind, op: "echo", value: [nonce, data], result: [nonce, data], timeoutMs };
  }
  return {
    kind,
    op: kind === "once" ? "once" : "digest",
    value: [nonce, data],
    result: [nonce, createHash("sha256").update(data).digest("hex")],
    timeoutMs: kind === "hasty" ? 20 + below(280) : kind === "once" ? Math.min(timeoutMs, ONCE_MS) : timeoutMs,
  };
}

/** Return what is wrong with what came, undefined if nothing is. */
export function flaw(asked: Question, chunks: readonly unknown[], result: unknown): string | undefined {
  const expected = asked.chunks?.slice(0, asked.keep) ?? [];
  if (!isDeepStrictEqual(chunks, expected)) {
    const twice = new Set(chunks.map((chunk) => JSON.stringify(chunk))).size < chunks.length;
    return `${twice ? "doubled" : "wrong"}: ${chunks.length} of ${expected.length} chunks, or not these`;
  }
  if (asked.keep === undefined && !isDeepStrictEqual(result, asked.result)) {
    return `wrong: the result is ${JSON.stringify(result).slice(0, 80)}`;
  }
  return undefined;
}

function bytes(length: number, first: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (first + index * 7) % 256);
}
