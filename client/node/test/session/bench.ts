/** A session with a time that stands still, and calls whose ends are kept. */

import { Buffer } from "node:buffer";

import { MeshError } from "../../src/errors.js";
import type { Call, Outcome } from "../../src/session/pending.js";
import { Pending } from "../../src/session/pending.js";
import { Session } from "../../src/session/session.js";
import type { SessionEvent } from "../../src/session/session.js";
import { packBody } from "../../src/wire/body.js";
import type { ErrorMessage, Final, Message, Welcome } from "../../src/wire/messages.js";

export const KEY = Buffer.from("0123456789abcdef");
export const BODY = packBody("x");

/** A call with what a test says about it. */
export function callWith(given: Partial<Call> = {}): Call {
  const usual = { op: "echo", model: "", lane: 1, timeoutMs: 60_000, flags: 0, window: 0, traceparent: "" } as const;
  return { ...usual, affinity: new Uint8Array(0), frames: BODY, ...given };
}

export function final(id: number, chunks = 0): Final {
  return { type: "Final", id, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks };
}

export function failure(id: number, code: string, retryable = false, retryAfterMs = 0): ErrorMessage {
  return { type: "Error", id, code, message: "why", retryable, retryAfterMs };
}

export function welcome(epoch = "e1", limits: Record<string, number> = {}): Welcome {
  return { type: "Welcome", major: 1, minor: 0, epoch, limits, intervals: { ping_ms: 1000, silent_ms: 5000 } };
}

export class Bench {
  now = 100_000;
  readonly session = new Session(KEY, "test", "ipc://nowhere", () => 0.5);
  readonly events: SessionEvent[] = [];
  readonly outcomes = new Map<number, Outcome>();
  readonly pieces: (readonly Uint8Array[])[] = [];
  private calls = 0;

  constructor(first: Welcome = welcome()) {
    this.session.onEvent = (event) => this.events.push(event);
    this.session.connected(this.now);
    this.hear(first);
    this.said();
  }

  /** A bench whose broker has not answered. */
  static unwelcomed(): Bench {
    const bench = new Bench();
    bench.session.connected(bench.now);
    bench.said();
    return bench;
  }

  hear(message: Message, frames: readonly Uint8Array[] = []): void {
    this.session.message(this.now, message, frames);
  }

  /** Take what is to be sent. */
  said(): Message[] {
    return this.session.drain().map(({ message }) => message);
  }

  call(given: Partial<Call> = {}): Pending {
    this.calls += 1;
    const number = this.calls;
    const call = callWith(given);
    const piece = call.window > 0 ? (frames: readonly Uint8Array[]) => this.pieces.push(frames) : undefined;
    const done = (outcome: Outcome): void => {
      if (this.outcomes.has(number)) {
        throw new Error(`call ${number} ended twice`);
      }
      this.outcomes.set(number, outcome);
    };
    const pending = new Pending(call, this.now + call.timeoutMs, done, piece);
    this.session.start(this.now, pending);
    return pending;
  }

  /** Let time pass as a shell does. */
  advance(ms: number): void {
    const end = this.now + ms;
    for (let due = this.session.nextTick(); due <= end; due = this.session.nextTick()) {
      this.now = Math.max(this.now, due);
      this.session.tick(this.now);
      if (this.session.reconnect) {
        this.session.connected(this.now);
      }
    }
    this.now = end;
  }

  /** The code of a call's error; `"OK"` if it has a result, `""` if it has not ended. */
  code(number: number): string {
    const outcome = this.outcomes.get(number);
    return outcome instanceof MeshError ? outcome.code : outcome === undefined ? "" : "OK";
  }
}
