/**
 * The client's side of the protocol. No socket, clock, timer or random number inside.
 *
 * Every method takes the time, in ms, and puts messages to send into `outbox`; answers go to the `done` and `piece`
 * callbacks of each call. It does what the Python client's session does: `protocol/vectors/client_scenarios.json` holds
 * both to the same steps.
 */

import { ProtocolError, UnauthorizedError } from "../errors.js";
import type { MeshError } from "../errors.js";
import type { Mail } from "../wire/bundle.js";
import { OUTSTANDING_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../wire/limits.js";
import type { Again, Chunk, ErrorMessage, Final, Message, Reset, Welcome } from "../wire/messages.js";
import { Calls } from "./calls.js";
import { expiredError, toldError } from "./outcomes.js";
import type { Pending } from "./pending.js";
import { named, Pulse } from "./pulse.js";
import { requestMail } from "./request.js";
import { RetryBudget } from "./retry.js";

/** Stands for STATUS as the op of a {@link Pending}; never sent as an op. */
export const STATUS_OP = "mesh.status";

/** What a session tells about its connection, beside the outcomes of calls. */
export type SessionEvent =
  | { readonly type: "connected"; readonly epoch: string }
  | { readonly type: "epoch"; readonly epoch: string; readonly previous: string }
  | { readonly type: "reconnecting"; readonly reason: "silence" | "gap" };

const NO_FRAMES: readonly Uint8Array[] = [];

/** All calls of one client, over all its connections. */
export class Session {
  /** Messages to send, each with its body frames; {@link drain} takes them. */
  outbox: Mail[] = [];
  /** The shell is to make a new connection and call {@link connected}. */
  reconnect = false;
  /** The broker's, empty until the first WELCOME. */
  epoch = "";
  /** Told of what happens to the connection. It must not throw, nor call the session. */
  onEvent: ((event: SessionEvent) => void) | undefined;

  private readonly budget: RetryBudget;
  private readonly pulse = new Pulse();
  private readonly calls = new Calls((now, pending) => {
    this.send(now, pending);
  });
  private greetedAt = 0;
  private isWelcomed = false;

  /**
   * @param key - 16 random bytes.
   * @param name - shown to operators.
   * @param endpoint - named in error messages.
   * @param random - numbers from 0 to 1, for jitter.
   */
  constructor(
    private readonly key: Uint8Array,
    private readonly name: string,
    private readonly endpoint: string,
    random: () => number,
  ) {
    this.budget = new RetryBudget(random);
  }

  /** Calls that are outstanding or wait; those in a pause before a retry do not count. */
  get size(): number {
    return this.calls.size;
  }

  /** Whether the broker has answered on this connection. */
  get welcomed(): boolean {
    return this.isWelcomed;
  }

  /** Remove and return what is to be sent. */
  drain(): Mail[] {
    const mail = this.outbox;
    this.outbox = [];
    return mail;
  }

  /** A connection was made: greet, and send again what is outstanding. */
  connected(now: number): void {
    this.reconnect = false;
    this.pulse.connected(now);
    this.greet(now);
  }

  /** Begin a call; one that finds no place waits, and one too many is refused at once. */
  start(now: number, pending: Pending): void {
    this.budget.earn();
    this.pulse.ran(now);
    this.calls.start(now, pending);
  }

  /** The caller lost interest: nothing more is told about this call. */
  cancel(pending: Pending): void {
    if (pending.ended) {
      return;
    }
    if (this.calls.withdraw(pending)) {
      this.say({ type: "Cancel", id: pending.id });
    }
    this.calls.forget();
  }

  /** The reader took a chunk: grant credit for it, or do so later for several. */
  read(now: number, pending: Pending): void {
    const chunks = pending.take(now);
    if (chunks > 0 && !pending.ended) {
      this.say({ type: "Credit", id: pending.id, chunks });
    }
  }

  /** Handle a message from the broker; types that do not concern a client are ignored. */
  message(now: number, message: Message, frames: readonly Uint8Array[]): void {
    this.pulse.hear(now);
    switch (message.type) {
      case "Final":
        this.onFinal(now, message, frames);
        break;
      case "Chunk":
        this.onChunk(now, message, frames);
        break;
      case "Error":
        this.onError(now, message, frames);
        break;
      case "Again":
        this.onAgain(now, message);
        break;
      case "Welcome":
        this.onWelcome(now, message);
        break;
      case "Reset":
        this.onReset(now, message);
        break;
      case "Ping":
        this.say({ type: "Pong", nonce: message.nonce });
        break;
      default:
    }
  }

  /** Do what the time demands: deadlines, retries, pings, a new connection. */
  tick(now: number): void {
    this.pulse.noticePause(now);
    for (let item = this.calls.due(now); item !== undefined; item = this.calls.due(now)) {
      if (item.retry) {
        this.calls.submit(now, item.pending);
      } else {
        this.expire(item.pending);
      }
    }
    this.calls.fill(now);
    this.mindSilence(now);
  }

  /** Return when {@link tick} has something to do. */
  nextTick(): number {
    if (this.reconnect || this.calls.canFill) {
      return 0; // A cancel made room.
    }
    return Math.min(this.pulse.due(this.calls.held > 0), this.calls.next());
  }

  /** End every call and say goodbye. */
  close(why: MeshError): void {
    this.endAll(why);
    this.say({ type: "Bye", reason: "closed" });
  }

  /** End every call; the next may find the way free again. */
  endAll(why: MeshError): void {
    this.calls.endAll(why);
  }

  private send(now: number, pending: Pending): void {
    if (this.calls.held === 1) {
      this.pulse.expect(now);
    }
    this.transmit(now, pending);
  }

  private transmit(now: number, pending: Pending): void {
    const { call } = pending;
    if (call.op === STATUS_OP) {
      this.say({ type: "Status", id: pending.id });
      return;
    }
    if (pending.atMostOnce && !this.isWelcomed) {
      return; // A broker that never answers must not leave it unknown whether it has run.
    }
    this.pulse.spoke(now);
    this.outbox.push(requestMail(now, pending));
  }

  /** Say HELLO, and again all that is outstanding. */
  private greet(now: number): void {
    this.isWelcomed = false;
    this.greetedAt = now;
    this.pulse.spoke(now);
    this.say({
      type: "Hello",
      major: PROTOCOL_MAJOR,
      minor: PROTOCOL_MINOR,
      session: this.key,
      name: this.name,
      lastEpoch: this.epoch,
    });
    for (const pending of this.calls.values()) {
      pending.onWire = false;
      this.transmit(now, pending);
    }
  }

  private say(message: Message): void {
    this.outbox.push({ message, frames: NO_FRAMES });
  }

  private onFinal(now: number, message: Final, frames: readonly Uint8Array[]): void {
    const pending = this.calls.get(message.id);
    if (pending === undefined) {
      return;
    }
    if (message.chunks > pending.nextSeq && pending.piece !== undefined) {
      this.askAgain(now, pending);
      return;
    }
    this.calls.end(pending, message, frames);
    this.calls.fill(now);
  }

  private onChunk(now: number, message: Chunk, frames: readonly Uint8Array[]): void {
    const pending = this.calls.get(message.id);
    if (pending?.piece === undefined) {
      return;
    }
    if (message.seq < pending.nextSeq) {
      // The stream began anew elsewhere; the reader has these already.
      this.say({ type: "Credit", id: pending.id, chunks: 1 });
    } else if (message.seq === pending.nextSeq) {
      pending.nextSeq += 1;
      pending.incompleteAt = undefined;
      pending.received?.add(frames);
      pending.piece(frames);
    } else if (pending.incompleteAt === undefined) {
      this.askAgain(now, pending);
    } else if (now - pending.incompleteAt >= this.pulse.silentMs) {
      this.wantConnection("gap"); // The broker takes it that this connection loses nothing; it did.
    }
  }

  /** Chunks were lost with an earlier connection: have the stream go on from the last one that came. */
  private askAgain(now: number, pending: Pending): void {
    pending.incompleteAt = now;
    this.transmit(now, pending);
  }

  /** A stream was cut off, and the broker asks from where it is to go on. */
  private onAgain(now: number, message: Again): void {
    const pending = this.calls.get(message.id);
    if (pending === undefined) {
      this.say({ type: "Cancel", id: message.id }); // An earlier CANCEL was lost with its connection.
      return;
    }
    if (pending.piece === undefined) {
      return;
    }
    pending.moved += pending.nextSeq > 0 ? 1 : 0;
    if (message.chunks > pending.nextSeq) {
      this.wantConnection("gap"); // Some were lost, and may be only where a connection ends.
    } else {
      this.transmit(now, pending);
    }
  }

  private onError(now: number, message: ErrorMessage, frames: readonly Uint8Array[]): void {
    if (message.id === 0) {
      this.onConnectionError(message);
      return;
    }
    const pending = this.calls.get(message.id);
    if (pending === undefined) {
      return;
    }
    const error = toldError(message, frames);
    const pauseMs = pending.nextSeq > 0 ? undefined : this.budget.pauseMs(error, pending.retries);
    if (pauseMs === undefined || now + pauseMs >= pending.due) {
      this.calls.end(pending, error, frames);
    } else {
      this.calls.postpone(now + pauseMs, pending);
    }
    this.calls.fill(now);
  }

  /** An error of the connection as a whole: no call of ours can succeed on it. */
  private onConnectionError(message: ErrorMessage): void {
    if (message.code === "UNAUTHORIZED") {
      this.endAll(new UnauthorizedError(message.message));
    } else if (message.code === "PROTOCOL_ERROR" && !this.isWelcomed) {
      this.calls.endOutstanding(new ProtocolError(message.message));
    }
  }

  private onWelcome(now: number, message: Welcome): void {
    const { epoch } = message;
    const first = !this.isWelcomed;
    const previous = this.epoch;
    this.isWelcomed = true;
    if (epoch !== previous) {
      for (const pending of this.calls.values()) {
        pending.moved += pending.nextSeq > 0 ? 1 : 0;
      }
    }
    this.epoch = epoch;
    this.calls.places = named(message.limits, "outstanding_max") ?? OUTSTANDING_MAX;
    this.pulse.adopt(message.intervals);
    for (const pending of this.calls.values()) {
      if (pending.atMostOnce && !pending.onWire) {
        this.transmit(now, pending);
      }
    }
    this.calls.fill(now);
    if (first) {
      this.onEvent?.({ type: "connected", epoch });
    }
    if (previous !== "" && epoch !== previous) {
      this.onEvent?.({ type: "epoch", epoch, previous });
    }
  }

  private onReset(now: number, message: Reset): void {
    const dropped = this.calls.get(message.dropped);
    if (dropped?.nextSeq === 0) {
      dropped.sent = false;
    }
    // Messages that were on their way with the HELLO are each answered by a RESET; one that comes much later means that
    // the HELLO itself was lost, or is slow. A second one on this connection could take the first one's WELCOME for its
    // own, and with it chunks that the REQUESTs behind it do not count.
    if (this.isWelcomed) {
      this.greet(now);
    } else if (now - this.greetedAt >= this.pulse.pingMs) {
      this.wantConnection("silence");
    }
  }

  private mindSilence(now: number): void {
    const need = this.pulse.check(now, this.calls.held > 0);
    if (need === "reconnect") {
      this.wantConnection("silence");
    } else if (need !== undefined) {
      this.say({ type: "Ping", nonce: need === "ping" ? 1 : 0 });
    }
  }

  private wantConnection(reason: "silence" | "gap"): void {
    if (!this.reconnect) {
      this.reconnect = true;
      this.onEvent?.({ type: "reconnecting", reason });
    }
  }

  private expire(pending: Pending): void {
    if (this.calls.withdraw(pending)) {
      this.say({ type: "Cancel", id: pending.id });
    }
    pending.done(expiredError(pending.call, this.isWelcomed ? undefined : this.endpoint), NO_FRAMES);
  }
}
