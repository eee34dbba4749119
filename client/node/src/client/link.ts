/** A session on a connection: its clock, its timer and its messages. */

import { DecodeError, OverloadedError, ProtocolError, UnauthorizedError } from "../errors.js";
import type { MeshError } from "../errors.js";
import { closedError } from "../session/outcomes.js";
import type { Call, Done, Piece } from "../session/pending.js";
import { Pending } from "../session/pending.js";
import { Session } from "../session/session.js";
import { tellGivenUp, traceOf } from "../telemetry/trace.js";
import type { Dial, Fault, Transport } from "../transport/transport.js";
import { bundles } from "../wire/bundle.js";
import { BUNDLE_MAX_MESSAGES } from "../wire/limits.js";
import type { MeshEvent } from "./events.js";
import { deliver, sizeOf } from "./incoming.js";
import type { Take } from "./incoming.js";
import { Redial } from "./redial.js";

/** Connections in a row that bring what is no message, and no broker's greeting, before callers are told. */
export const GARBAGE_MAX = 3;

/** How long what was sent last is waited for. Node warns of a process that is held up for 500 ms at its end. */
export const LINGER_MS = 400;

/** Bodies of calls that have not ended, as many bytes as the broker queues. */
export const HELD_MAX_BYTES = 256 * 1024 * 1024;

/** Timers of Node take 31 bits; a later need is looked at when it fires. */
const TIMER_MAX_MS = 3_600_000;

/** What a link is made of. */
export interface LinkParts {
  readonly key: Uint8Array;
  readonly name: string;
  readonly endpoint: string;
  readonly random: () => number;
  readonly dial: Dial;
  readonly onEvent: (event: MeshEvent) => void;
}

/** All calls of one client and the connection of now. It needs no connection to begin calls. */
export class Link {
  readonly session: Session;
  private transport: Transport | undefined;
  private timer: NodeJS.Timeout | undefined;
  private timerAt = Infinity;
  private scheduled = false;
  private refusing = false;
  private closed = false;
  private readonly redial = new Redial();
  private calls = 0;
  private heldBytes = 0;
  private onIdle: (() => void) | undefined;

  constructor(private readonly parts: LinkParts) {
    this.session = new Session(parts.key, parts.name, parts.endpoint, parts.random);
    this.session.onEvent = parts.onEvent;
    this.dial(performance.now());
    this.schedule();
  }

  /** Calls that have not ended. */
  get size(): number {
    return this.calls;
  }

  /** @throws {@link CancelledError} no calls are taken any more. */
  checkOpen(): void {
    if (this.refusing) {
      throw closedError();
    }
  }

  /** Take no more calls. */
  refuse(): void {
    this.refusing = true;
  }

  /** Begin a call. It may end before this returns. */
  begin(call: Call, done: Done, piece?: Piece): Pending {
    const trace = traceOf(call, this.parts.endpoint);
    return trace === undefined ? this.start(call, done, piece) : trace.begin(this.start, done, piece);
  }

  /** The caller lost interest, because of an error or because it has read enough: nothing more is told about this call. */
  cancel(pending: Pending, why?: MeshError): void {
    if (!pending.ended) {
      this.session.cancel(pending);
      this.release(sizeOf(pending.call.frames));
      this.schedule();
      tellGivenUp(pending, why);
    }
  }

  /** The reader of a stream took a chunk. */
  read(pending: Pending): void {
    this.session.read(performance.now(), pending);
    if (this.session.outbox.length > 0) {
      this.schedule();
    }
  }

  /** Tell those who watch. */
  emit(event: MeshEvent): void {
    this.parts.onEvent(event);
  }

  /** Return once no call is under way, or after so long. */
  idle(timeoutMs: number): Promise<void> {
    if (this.calls === 0 || timeoutMs <= 0) {
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.onIdle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** End every call, say goodbye, and let go of the connection and the timer. */
  close(): void {
    if (this.closed) {
      return;
    }
    this.closed = this.refusing = true;
    clearTimeout(this.timer);
    // Where no broker has answered nobody is there to take the goodbye.
    const lingerMs = this.session.welcomed ? LINGER_MS : 0;
    this.session.close(closedError());
    this.flush();
    this.transport?.close(lingerMs);
    this.transport = undefined;
  }

  private readonly start = (call: Call, done: Done, piece?: Piece): Pending => {
    this.checkOpen();
    const size = sizeOf(call.frames);
    if (this.heldBytes + size > HELD_MAX_BYTES) {
      throw new OverloadedError(`calls with ${this.heldBytes} bytes are under way in this client; send fewer at once`, {
        details: { limit: HELD_MAX_BYTES },
      });
    }
    this.calls += 1;
    this.heldBytes += size;
    const ended: Done = (outcome, frames) => {
      this.release(size);
      done(outcome, frames);
    };
    const { session } = this;
    const now = performance.now();
    const pending = new Pending(call, now + call.timeoutMs, ended, piece);
    session.start(now, pending);
    if (session.size === 1 && !this.scheduled) {
      this.pump(); // Nobody to share a bundle with.
    } else {
      if (session.outbox.length >= BUNDLE_MAX_MESSAGES) {
        this.flush(); // A bundle is full: the broker can begin with it.
      }
      this.schedule();
    }
    return pending;
  };

  private release(size: number): void {
    this.calls -= 1;
    this.heldBytes -= size;
    if (this.calls === 0) {
      this.onIdle?.();
    }
  }

  /** Have all that is said in this turn sent at its end. */
  private schedule(): void {
    if (!this.scheduled) {
      this.scheduled = true;
      process.nextTick(this.pump);
    }
  }

  private readonly pump = (): void => {
    this.scheduled = false;
    if (this.closed) {
      return;
    }
    const now = performance.now();
    if (this.session.reconnect) {
      this.redial.soon(now);
    }
    // Where it is refused again and again, only somebody who waits for it is a reason to try.
    if (this.calls > 0 && this.redial.isDue(now)) {
      this.dialAnew(now);
    }
    this.flush();
    this.arm();
  };

  private flush(): void {
    if (this.transport !== undefined && this.session.outbox.length > 0) {
      for (const frames of bundles(this.session.drain())) {
        this.transport.send(frames);
      }
    }
  }

  /** Keep one timer for whatever has to be done next. */
  private arm(): void {
    const due = this.session.reconnect ? Infinity : this.session.nextTick();
    const at = Math.min(due, this.calls > 0 ? (this.redial.at ?? Infinity) : Infinity);
    if (this.timer !== undefined) {
      if (this.timerAt <= at) {
        return; // It is looked at again when it fires.
      }
      clearTimeout(this.timer);
    }
    const now = performance.now();
    const waitMs = Math.min(Math.max(1, Math.ceil(at - now)), TIMER_MAX_MS);
    this.timerAt = now + waitMs;
    this.timer = setTimeout(this.tick, waitMs);
  }

  private readonly tick = (): void => {
    this.timer = undefined;
    this.timerAt = Infinity;
    this.session.tick(performance.now());
    this.pump();
  };

  private dialAnew(now: number): void {
    this.transport?.close(0);
    this.transport = undefined;
    try {
      this.dial(now);
    } catch {
      this.redial.failed(now); // There are no more descriptors; the deadline covers the calls.
    }
  }

  /** Make a connection, on which all that is outstanding is sent again. */
  private dial(now: number): void {
    // It begins with the greeting; of what was to be said before, only what is not wanted any more counts still.
    const cancels = this.session.drain().filter(({ message }) => message.type === "Cancel");
    this.redial.dialed(now);
    const transport = this.parts.dial(
      {
        onMessage: (frames) => {
          if (transport === this.transport) {
            this.take(frames);
          }
        },
        onFault: (fault) => {
          if (transport === this.transport) {
            this.fail(fault);
          }
        },
      },
      this.session.epoch !== "",
    );
    this.transport = transport;
    this.session.connected(now);
    this.session.outbox.push(...cancels);
  }

  private take(frames: readonly Uint8Array[]): void {
    try {
      deliver(frames, this.hear);
    } catch (error) {
      if (!(error instanceof DecodeError)) {
        throw error;
      }
      this.distrust(error);
    }
    this.schedule();
  }

  private readonly hear: Take = (message, frames) => {
    this.session.message(performance.now(), message, frames);
  };

  /** What came is no message: nothing else on this connection can be believed, so all goes on with a new one. */
  private distrust(error: DecodeError): void {
    this.fault("garbage");
    if (this.redial.faults >= GARBAGE_MAX && !this.session.welcomed) {
      const { endpoint } = this.parts;
      this.session.endAll(
        new ProtocolError(`what answers at ${endpoint} does not speak as a broker: ${error.message}`),
      );
    }
    this.transport?.close(0);
    this.transport = undefined;
  }

  private fail({ told }: Fault): void {
    if (told !== undefined) {
      this.session.endAll(new UnauthorizedError(told));
    }
    this.fault("fault");
    this.schedule();
  }

  private fault(reason: "garbage" | "fault"): void {
    if (this.redial.failed(performance.now())) {
      this.emit({ type: "reconnecting", reason });
    }
  }
}
