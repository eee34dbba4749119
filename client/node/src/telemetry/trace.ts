/** Tells of requests, if anybody listens. */

import { channel } from "node:diagnostics_channel";
import type { Channel } from "node:diagnostics_channel";

import { sizeOf } from "../client/incoming.js";
import { InternalError, MeshError } from "../errors.js";
import type { Call, Done, Pending, Piece } from "../session/pending.js";
import { STATUS_OP } from "../session/session.js";
import { TRACEPARENT_MAX_CHARS } from "../wire/limits.js";
import type { Final, LaneName } from "../wire/messages.js";
import { FinalFlag, Flag, Lane } from "../wire/messages.js";
import { CALL_CHANNELS } from "./messages.js";
import type { CallEnd, CallError, CallStart } from "./messages.js";

/** Kept here: a channel that nobody holds is forgotten, and with it who subscribes later. */
const START = channel(CALL_CHANNELS.start);
const END = channel(CALL_CHANNELS.end);
const ERROR = channel(CALL_CHANNELS.error);

const LANE_NAMES = Object.keys(Lane) as readonly LaneName[];

/** Those of requests that are under way. Each ends, so that it is no leak; a `WeakMap` costs the collector more. */
const traces = new Map<Pending, Trace>();

/** Begins a request, as {@link Link.begin} does. */
export type Begin = (call: Call, done: Done, piece?: Piece) => Pending;

/** Return what tells of a request, undefined if nobody wants to know. */
export function traceOf(call: Call, endpoint: string): Trace | undefined {
  const isHeard = START.hasSubscribers || END.hasSubscribers || ERROR.hasSubscribers;
  return isHeard && call.op !== STATUS_OP ? new Trace(call, endpoint) : undefined;
}

/** Tell that nobody wants a request any more: because of an error, or because the reader of its stream left. */
export function tellGivenUp(pending: Pending, why: MeshError | undefined): void {
  traces.get(pending)?.over(why);
}

/** Tells of one request. */
export class Trace {
  private readonly begunAt = performance.now();
  private readonly start: CallStart;
  private pending: Pending | undefined;
  private firstChunkAt: number | undefined;

  constructor(
    private readonly given: Call,
    endpoint: string,
  ) {
    this.start = {
      call: Object.freeze({}),
      op: given.op,
      model: given.model,
      lane: LANE_NAMES[given.lane] ?? "standard",
      stream: given.window > 0,
      atMostOnce: (given.flags & Flag.AT_MOST_ONCE) !== 0,
      timeoutMs: given.timeoutMs,
      bytes: sizeOf(given.frames),
      endpoint,
      traceparent: given.traceparent,
    };
  }

  /** Begin the request, told of from here to its end. */
  begin(begin: Begin, done: Done, piece: Piece | undefined): Pending {
    // A copy: who subscribes may change or freeze what it got, and the next message is to be right all the same.
    const told = { ...this.start };
    START.publish(told);
    this.start.traceparent = usable(told.traceparent) ? told.traceparent : this.given.traceparent;
    try {
      const call = { ...this.given, traceparent: this.start.traceparent };
      this.pending = begin(call, this.watched(done), piece && this.timed(piece));
    } catch (error) {
      this.over(error instanceof MeshError ? error : new InternalError("the call cannot be sent", { cause: error }));
      throw error;
    }
    if (!this.pending.ended) {
      traces.set(this.pending, this);
    }
    return this.pending;
  }

  /** Tell that it is over without a result: with an error, or because its reader left. */
  over(why: MeshError | undefined): void {
    if (why === undefined) {
      tell(END, this.ended(undefined, true));
    } else {
      const failed: CallError = { error: why, code: why.code, ...this.ended(undefined, false) };
      tell(ERROR, failed);
    }
  }

  private watched(done: Done): Done {
    return (outcome, frames) => {
      if (outcome instanceof MeshError) {
        this.over(outcome);
      } else {
        tell(END, this.ended(outcome, false));
      }
      done(outcome, frames);
    };
  }

  private timed(piece: Piece): Piece {
    return (frames) => {
      this.firstChunkAt ??= performance.now();
      piece(frames);
    };
  }

  /** Return what there is to tell at the end. */
  private ended(final: Final | undefined, left: boolean): CallEnd {
    const { pending, begunAt, firstChunkAt } = this;
    if (pending !== undefined) {
      traces.delete(pending);
    }
    // What is spread comes last: V8 takes 50 us to add fields behind it, and less than one before.
    return {
      requestId: pending?.id ?? 0,
      retries: pending?.retries ?? 0,
      moved: pending?.moved ?? 0,
      chunks: pending?.nextSeq ?? 0,
      firstChunkMs: firstChunkAt && firstChunkAt - begunAt,
      totalMs: performance.now() - begunAt,
      left,
      attempts: final?.attempts,
      queueMs: final && final.queueUs / 1000,
      serviceMs: final && final.serviceUs / 1000,
      cached: final && (final.flags & FinalFlag.CACHED) !== 0,
      shared: final && (final.flags & FinalFlag.SHARED) !== 0,
      ...this.start,
    };
  }
}

/**
 * Tell it as soon as whoever ends the request has done so: a subscriber may begin the next one, and the session does
 * not bear that in the midst of a message. It is before the caller goes on, who waits for a promise.
 */
function tell(channel: Channel, message: CallEnd): void {
  queueMicrotask(() => {
    channel.publish(message);
  });
}

function usable(traceparent: unknown): boolean {
  return typeof traceparent === "string" && traceparent.length <= TRACEPARENT_MAX_CHARS && traceparent.isWellFormed();
}
