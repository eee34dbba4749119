/** The messages that only workers and operators exchange with the broker. A client has them to be whole. */

import type { Numbers, Request, Texts } from "./messages.js";

interface Worker {
  readonly major: number;
  readonly minor: number;
  readonly instance: Uint8Array;
  readonly name: string;
  readonly host: string;
  readonly machine: string;
  readonly pid: number;
  readonly pidStart: number;
  readonly ops: readonly string[];
  readonly pureOps: readonly string[];
  readonly models: readonly string[];
  readonly slots: number;
  readonly loadMaxMs: number;
  readonly versions: Texts;
  readonly bulkSlots: number;
}

/** Worker to broker: alive and loading. */
export interface Loading extends Worker {
  readonly type: "Loading";
}

/** Worker to broker: loaded and warmed up. */
export interface Ready extends Worker {
  readonly type: "Ready";
}

/** One job that a worker holds, as it stands in HELD. */
export type HeldJob = readonly [session: Uint8Array, requestId: number, attempt: number];

/** Worker to broker, before READY: jobs it still holds. */
export interface Held {
  readonly type: "Held";
  readonly instance: Uint8Array;
  readonly jobs: readonly HeldJob[];
}

/** Broker to worker: one attempt at a request. */
export interface Job extends Omit<Request, "type"> {
  readonly type: "Job";
  readonly jobId: number;
  readonly attempt: number;
  readonly session: Uint8Array;
}

/** Worker to broker: not started, give it to another. */
export interface Return {
  readonly type: "Return";
  readonly jobId: number;
  readonly reason: string;
}

/** Worker to broker: alive, and how far along. */
export interface Beat {
  readonly type: "Beat";
  readonly progress: number;
  readonly held: number;
  readonly draining: boolean;
  readonly running: readonly number[];
  readonly warm: readonly string[];
  readonly memory: Numbers;
  readonly counters: Numbers;
}

/** `on`: take nothing new. Off: serve again. */
export interface Quiet {
  readonly type: "Quiet";
  readonly on: boolean;
}

/** Broker to worker: give memory back. */
export interface Trim {
  readonly type: "Trim";
  readonly level: number;
}

/** Broker to worker: write the stacks of all threads to the log. */
export interface Dump {
  readonly type: "Dump";
  readonly reason: string;
}

/** Operator to broker; the body is a map of arguments. */
export interface Command {
  readonly type: "Command";
  readonly id: number;
  readonly name: string;
}

/** Broker to subscribers; the body is a list of that many maps. */
export interface Events {
  readonly type: "Events";
  readonly records: number;
}
