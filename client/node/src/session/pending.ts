/** A call that has no answer yet, and how far its reader is. */

import type { MeshError } from "../errors.js";
import type { Final, LaneNumber } from "../wire/messages.js";
import { Flag } from "../wire/messages.js";
import { Received } from "./received.js";

/** A slow reader grants credit for what it has read at least this often; a quick one half a window at a time. */
export const CREDIT_AFTER_MS = 1000;

/** One request as the session takes it. */
export interface Call {
  readonly op: string;
  /** Empty: the worker's default. */
  readonly model: string;
  readonly lane: LaneNumber;
  readonly timeoutMs: number;
  /** Bits of {@link Flag}. */
  readonly flags: number;
  /** Stream credit in chunks; 0 asks for one answer and no chunks. */
  readonly window: number;
  readonly affinity: Uint8Array;
  readonly traceparent: string;
  /** Body and buffers. They are sent again after a fault, so they must not change before the call has ended. */
  readonly frames: readonly Uint8Array[];
}

/** How a call ended. */
export type Outcome = Final | MeshError;

/** Called once, with the FINAL and its frames or with the error. It must neither throw nor call the session. */
export type Done = (outcome: Outcome, frames: readonly Uint8Array[]) => void;

/** Called for each chunk of a stream. It must neither throw nor call the session. */
export type Piece = (frames: readonly Uint8Array[]) => void;

/** A call between its start and its answer. Only `moved` and `ended` are for those outside the session. */
export class Pending {
  /** It has its answer, or nobody wants one any more. */
  ended = false;
  /** How often a stream went on elsewhere after chunks had come. */
  moved = 0;
  /** The request id of now; 0 before it was sent. */
  id = 0;
  retries = 0;
  /** Chunks that came. */
  nextSeq = 0;
  /** The broker may know it: a REQUEST went out that no RESET said was dropped. */
  sent = false;
  /** It was sent on the connection of now. */
  onWire = false;
  /** Since when a chunk is missing that has been asked for. */
  incompleteAt: number | undefined;
  /** What the reader of a stream has, if another worker can go on from there. */
  readonly received: Received | undefined;

  private taken = 0;
  private granted: number;
  private grantedAt: number | undefined;

  /** @param due - its deadline, by the clock that the session is given. */
  constructor(
    readonly call: Call,
    readonly due: number,
    readonly done: Done,
    readonly piece?: Piece,
  ) {
    this.granted = call.window;
    this.received = piece !== undefined && call.flags & Flag.RESUMABLE ? new Received() : undefined;
  }

  /** Whether it must never run a second time. */
  get atMostOnce(): boolean {
    return (this.call.flags & Flag.AT_MOST_ONCE) !== 0;
  }

  /** Count a chunk that the reader took; return the credit to grant for it and those before, often 0. */
  take(now: number): number {
    this.taken += 1;
    this.grantedAt ??= now;
    const owed = this.taken + this.call.window - this.granted;
    if (owed * 2 < this.call.window && now - this.grantedAt < CREDIT_AFTER_MS) {
      return 0;
    }
    this.granted += owed;
    this.grantedAt = now;
    return owed;
  }

  /** Return the chunks that the reader has room for, all granted anew: what was granted before counts no more. */
  room(): number {
    this.granted = Math.max(this.taken + this.call.window, this.nextSeq);
    return this.granted - this.nextSeq;
  }
}
