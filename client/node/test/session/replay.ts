/** Replays a scenario of `protocol/vectors/client_scenarios.json`; its README says what is in there. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";

import { MeshError } from "../../src/errors.js";
import { closedError } from "../../src/session/outcomes.js";
import { Pending } from "../../src/session/pending.js";
import { Session } from "../../src/session/session.js";
import type { Mail } from "../../src/wire/bundle.js";
import type { LaneNumber, Message } from "../../src/wire/messages.js";

/** `[type, fields, ...frames in hex]`. */
type Written = [string, unknown[], ...string[]];

interface Step {
  at: number;
  do: "connected" | "start" | "cancel" | "read" | "hear" | "tick" | "close";
  call?: number;
  op?: string;
  lane?: LaneNumber;
  timeout_ms?: number;
  flags?: number;
  window?: number;
  message?: Written;
  sends?: Written[];
  tells?: unknown[][];
  state?: Record<string, unknown>;
}

export interface Scenario {
  name: string;
  random: number[];
  steps: Step[];
}

// From `build/test/session`.
const FILE = new URL("../../../../../protocol/vectors/client_scenarios.json", import.meta.url);

export function scenarios(): Scenario[] {
  return JSON.parse(readFileSync(FILE, "utf8")) as Scenario[];
}

/** The fields of a message in the order of the protocol's specification. */
const FIELDS: Record<string, string[]> = {
  Hello: ["major", "minor", "session", "name", "lastEpoch"],
  Welcome: ["major", "minor", "epoch", "limits", "intervals"],
  Request: [
    ...["requestId", "op", "model", "lane", "remainingMs", "flags", "window", "affinity", "traceparent", "seen"],
  ],
  Chunk: ["id", "seq"],
  Final: ["id", "attempts", "queueUs", "serviceUs", "flags", "chunks"],
  Error: ["id", "code", "message", "retryable", "retryAfterMs"],
  Again: ["id", "chunks"],
  Cancel: ["id"],
  Credit: ["id", "chunks"],
  Ping: ["nonce"],
  Pong: ["nonce"],
  Bye: ["reason"],
  Reset: ["epoch", "dropped"],
  Status: ["id"],
  Quiet: ["on"],
};

function fieldsOf(type: string): string[] {
  return FIELDS[type] ?? assert.fail(`${type} is not in the table`);
}

function hex(frames: readonly Uint8Array[]): string[] {
  return frames.map((frame) => Buffer.from(frame).toString("hex"));
}

function written(message: Message, frames: readonly Uint8Array[]): Written {
  const values = message as unknown as Record<string, unknown>;
  const fields = fieldsOf(message.type).map((name) => {
    const value = values[name];
    return value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString("hex") } : value;
  });
  assert.equal(Object.keys(message).length, fields.length + 1, "it has other fields too");
  return [message.type, fields, ...hex(frames)];
}

function read([type, fields, ...frames]: Written): Mail {
  const entries = fieldsOf(type).map((name, at) => [name, fields[at]]);
  const message = { type, ...Object.fromEntries(entries) } as Message;
  return { message, frames: frames.map((frame) => Buffer.from(frame, "hex")) };
}

/** A session under the steps of a scenario. */
export class Replay {
  readonly session: Session;
  private readonly pendings = new Map<number, Pending>();
  private readonly random: number[];
  private tells: unknown[][] = [];
  private expected: Record<string, unknown> = {};
  private readonly moved: Record<string, number> = {};

  constructor(private readonly scenario: Scenario) {
    this.random = [...scenario.random];
    const draw = () => this.random.shift() ?? assert.fail("it draws more often");
    this.session = new Session(Buffer.from("0123456789abcdef"), "test", "ipc://nowhere", draw);
  }

  /** Do all steps. Whatever the session says and tells has to be what was recorded. */
  run(): void {
    this.scenario.steps.forEach((step, number) => {
      this.tells = [];
      this.act(step);
      const where = `step ${number}, ${step.do}`;
      const sends = this.session.drain().map(({ message, frames }) => written(message, frames));
      assert.deepStrictEqual(sends, step.sends ?? [], where);
      assert.deepStrictEqual(this.tells, step.tells ?? [], where);
      this.compareState(step, where);
    });
    assert.deepStrictEqual(this.random, [], "it draws less often");
  }

  private act(step: Step): void {
    const { session } = this;
    const pending = this.pendings.get(step.call ?? 0);
    if (step.do === "start") {
      session.start(step.at, this.begin(step));
    } else if (step.do === "connected" || step.do === "tick") {
      session[step.do](step.at);
    } else if (step.do === "close") {
      session.close(closedError());
    } else if (step.do === "hear") {
      const { message, frames } = read(step.message ?? assert.fail());
      session.message(step.at, message, frames);
    } else if (step.do === "read") {
      session.read(step.at, pending ?? assert.fail());
    } else {
      session.cancel(pending ?? assert.fail());
    }
  }

  private begin(step: Step): Pending {
    const { call: number = 0, op = "", lane = 1, timeout_ms: timeoutMs = 0, flags = 0, window = 0 } = step;
    const [affinity, traceparent, frames] = [Buffer.from("a"), "t", [Buffer.from("a178", "hex")]];
    const pending = new Pending(
      { op, model: "m", lane, timeoutMs, flags, window, affinity, traceparent, frames },
      step.at + timeoutMs,
      (outcome, given) => {
        this.tells.push(
          outcome instanceof MeshError
            ? [number, "error", outcome.code, outcome.retryable, outcome.retryAfterMs, outcome.details]
            : [number, "final", written(outcome, given)],
        );
      },
      window > 0 ? (given) => this.tells.push([number, "piece", ...hex(given)]) : undefined,
    );
    this.pendings.set(number, pending);
    return pending;
  }

  private compareState(step: Step, where: string): void {
    Object.assign(this.moved, step.state?.moved);
    this.expected = { ...this.expected, ...step.state, moved: undefined };
    const { size, welcomed, reconnect, epoch } = this.session;
    const next = this.session.nextTick();
    // Pauses of retries are rounded otherwise in seconds.
    const near = Math.abs(next - Number(this.expected.next)) < 0.001;
    const state = { size, welcomed, reconnect, epoch, next: near ? this.expected.next : next, moved: undefined };
    assert.deepStrictEqual(state, this.expected, where);
    for (const [number, pending] of this.pendings) {
      assert.equal(pending.moved, this.moved[number] ?? 0, where);
    }
  }
}
