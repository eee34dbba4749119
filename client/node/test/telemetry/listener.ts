/** Keeps what is told of requests, and begins and answers them on a connection that is none. */

import { subscribe, unsubscribe } from "node:diagnostics_channel";

import { CALL_CHANNELS } from "../../src/index.js";
import type { CallEnd, CallError, CallStart } from "../../src/index.js";
import { packBody } from "../../src/wire/body.js";
import type { Final } from "../../src/wire/messages.js";
import type { FakeMesh } from "../client/fake.js";

export class Listener implements Disposable {
  readonly starts: CallStart[] = [];
  readonly ends: CallEnd[] = [];
  readonly errors: CallError[] = [];
  /** All of them, in order, as `start echo`. */
  readonly order: string[] = [];
  private readonly handlers = {
    [CALL_CHANNELS.start]: (message: unknown) => {
      this.starts.push(message as CallStart);
      this.order.push(`start ${(message as CallStart).op}`);
    },
    [CALL_CHANNELS.end]: (message: unknown) => {
      this.ends.push(message as CallEnd);
      this.order.push(`end ${(message as CallEnd).op}`);
    },
    [CALL_CHANNELS.error]: (message: unknown) => {
      this.errors.push(message as CallError);
      this.order.push(`error ${(message as CallError).op}`);
    },
  };

  constructor() {
    for (const [name, handler] of Object.entries(this.handlers)) {
      subscribe(name, handler);
    }
  }

  [Symbol.dispose](): void {
    for (const [name, handler] of Object.entries(this.handlers)) {
      unsubscribe(name, handler);
    }
  }
}

/** The result of a request, as a broker tells it. */
export function answer(fake: FakeMesh, id: number, value: unknown, facts: Partial<Final> = {}): void {
  const usual = { type: "Final", id, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 } as const;
  fake.transport.tell({ ...usual, ...facts }, packBody(value));
}

/** The traceparents of the requests that were sent. */
export function sentTraceparents(fake: FakeMesh): string[] {
  return fake.transport.sent.flatMap(({ message }) => (message.type === "Request" ? [message.traceparent] : []));
}
