/**
 * The messages of protocol version 1, told apart by `type`. Names are those of `protocol/SPEC.md` section 4 in
 * camelCase; `src/wire/layouts.ts` has their order on the wire and the bounds of each field.
 */

import type { Beat, Command, Dump, Events, Held, Job, Loading, Quiet, Ready, Return, Trim } from "./others.js";

/** Who waits for the answer: a person, a program, or nobody in particular. */
export const Lane = { interactive: 0, standard: 1, bulk: 2 } as const;
export type LaneName = keyof typeof Lane;
export type LaneNumber = (typeof Lane)[LaneName];

/** Bits of `Request.flags`. */
export const Flag = {
  /** Never run again once a worker may have started it. */
  AT_MOST_ONCE: 1,
  /** Queue even though no worker for the op is known yet. */
  WAIT_FOR_READY: 2,
  /** The client sent this request before and does not know what became of it. */
  RESEND: 4,
  /** Neither answer from the result cache nor share another request's computation. */
  FRESH: 8,
  /** JOB only: compute in a step of its own. */
  ALONE: 16,
  /** The client of this stream can say what its reader has, so that another worker goes on from there. */
  RESUMABLE: 32,
  /** The last buffer is the state that the stream goes on from. */
  RESUMED: 64,
} as const;

/** Bits of `Final.flags`. */
export const FinalFlag = { CACHED: 1, SHARED: 2 } as const;

/** Counts, sizes or times by name. */
export type Numbers = Readonly<Record<string, number>>;
export type Texts = Readonly<Record<string, string>>;

/** Client to broker: the first message on every connection and after each RESET. */
export interface Hello {
  readonly type: "Hello";
  readonly major: number;
  readonly minor: number;
  readonly session: Uint8Array;
  readonly name: string;
  readonly lastEpoch: string;
}

/** Broker to client or worker: the connection stands; limits and intervals (in ms) in force, by their names in SPEC. */
export interface Welcome {
  readonly type: "Welcome";
  readonly major: number;
  readonly minor: number;
  readonly epoch: string;
  readonly limits: Numbers;
  readonly intervals: Numbers;
}

/** Client to broker: compute this. `seen` is how many chunks the reader has; `window` counts from there. */
export interface Request {
  readonly type: "Request";
  readonly requestId: number;
  readonly op: string;
  readonly model: string;
  readonly lane: number;
  readonly remainingMs: number;
  readonly flags: number;
  readonly window: number;
  readonly affinity: Uint8Array;
  readonly traceparent: string;
  readonly seen: number;
}

/** A piece of a stream. */
export interface Chunk {
  readonly type: "Chunk";
  readonly id: number;
  readonly seq: number;
}

/** The result. `queueUs` is the wait, `serviceUs` the computing, `chunks` how many came before it. */
export interface Final {
  readonly type: "Final";
  readonly id: number;
  readonly attempts: number;
  readonly queueUs: number;
  readonly serviceUs: number;
  readonly flags: number;
  readonly chunks: number;
}

/** A typed failure; `id` 0 concerns the connection. An optional body is a map of details. */
export interface ErrorMessage {
  readonly type: "Error";
  readonly id: number;
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number;
}

/** Stop computing; the one who sends it wants no answer. */
export interface Cancel {
  readonly type: "Cancel";
  readonly id: number;
}

/** The reader has room for `chunks` more chunks. */
export interface Credit {
  readonly type: "Credit";
  readonly id: number;
  readonly chunks: number;
}

/** Either side: answer with PONG and the same nonce. */
export interface Ping {
  readonly type: "Ping";
  readonly nonce: number;
}

/** The answer to PING. */
export interface Pong {
  readonly type: "Pong";
  readonly nonce: number;
}

/** The sender leaves; nothing more follows. */
export interface Bye {
  readonly type: "Bye";
  readonly reason: string;
}

/**
 * Broker to a peer it does not know. `dropped` is the id of the REQUEST that this answers, which was never taken in; 0
 * for anything else, and for a REQUEST with RESEND, of which that cannot be told.
 */
export interface Reset {
  readonly type: "Reset";
  readonly epoch: string;
  readonly dropped: number;
}

/** Client to broker: send the status map as the body of a FINAL with this id. */
export interface Status {
  readonly type: "Status";
  readonly id: number;
}

/** Several small messages in one. `sizes` are in bytes: header, body, header, body, ...; a body of 0 is none. */
export interface Bundle {
  readonly type: "Bundle";
  readonly sizes: readonly number[];
}

/** Broker to client: the attempt at this stream is lost after `chunks` CHUNKs; send the REQUEST again. */
export interface Again {
  readonly type: "Again";
  readonly id: number;
  readonly chunks: number;
}

/** What a client sends and is sent. */
export type ClientMessage =
  | Hello
  | Welcome
  | Request
  | Chunk
  | Final
  | ErrorMessage
  | Cancel
  | Credit
  | Ping
  | Pong
  | Bye
  | Reset
  | Status
  | Bundle
  | Again;

/** Any message of the protocol. */
export type Message =
  ClientMessage | Loading | Ready | Held | Job | Return | Beat | Quiet | Trim | Dump | Command | Events;

export type MessageType = Message["type"];
