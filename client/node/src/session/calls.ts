/** Where each call is: with the broker, waiting in the client for a place, or in the pause before a retry. */

import type { MeshError } from "../errors.js";
import { OUTSTANDING_MAX } from "../wire/limits.js";
import { Agenda } from "./agenda.js";
import type { Item } from "./agenda.js";
import { Lanes, WAITING_MAX } from "./lanes.js";
import { fullError } from "./outcomes.js";
import type { Outcome, Pending } from "./pending.js";

const NO_FRAMES: readonly Uint8Array[] = [];

/** All calls of a session that have not ended. */
export class Calls {
  /** How many may be with the broker at once. */
  places = OUTSTANDING_MAX;
  private readonly outstanding = new Map<number, Pending>();
  private readonly waiting = new Lanes<Pending>();
  private readonly agenda = new Agenda();
  private nextId = 1;

  /** @param send - puts a call that has just got a place and a new id on the wire. */
  constructor(private readonly send: (now: number, pending: Pending) => void) {}

  /** Those with the broker and those that wait; those in a pause do not count. */
  get size(): number {
    return this.outstanding.size + this.waiting.size;
  }

  /** How many the broker has. */
  get held(): number {
    return this.outstanding.size;
  }

  /** Whether a call waits although there is a place for it. */
  get canFill(): boolean {
    return this.waiting.size > 0 && this.outstanding.size < this.places;
  }

  /** The calls that the broker has, in the order of their ids. */
  values(): IterableIterator<Pending> {
    return this.outstanding.values();
  }

  /** Return the call that the broker has under an id. */
  get(id: number): Pending | undefined {
    return this.outstanding.get(id);
  }

  /** Take in a new call; one that finds no place waits, and one too many is refused at once. */
  start(now: number, pending: Pending): void {
    if (this.waiting.size >= WAITING_MAX) {
      this.end(pending, fullError());
      return;
    }
    this.agenda.add(pending.due, pending, false);
    this.submit(now, pending);
  }

  /** The broker has ended a call: try it again at some time. */
  postpone(when: number, pending: Pending): void {
    this.outstanding.delete(pending.id);
    pending.retries += 1;
    pending.sent = false;
    this.agenda.add(when, pending, true);
  }

  /** Send a call, or have it wait behind those that do. */
  submit(now: number, pending: Pending): void {
    if (this.outstanding.size < this.places && this.waiting.size === 0) {
      this.place(now, pending);
    } else {
      this.waiting.add(pending);
    }
  }

  /** Send what waits, higher lanes first, as far as there are places. */
  fill(now: number): void {
    while (this.canFill) {
      const pending = this.waiting.shift();
      if (pending !== undefined) {
        this.place(now, pending);
      }
    }
  }

  /** Take a call from where it is, without a word to its caller; return whether the broker has it. */
  withdraw(pending: Pending): boolean {
    pending.ended = true;
    this.waiting.delete(pending);
    return this.outstanding.delete(pending.id);
  }

  /** Return a call whose deadline has come, or the time of its retry; undefined if there is none. */
  due(now: number): Item | undefined {
    return this.agenda.due(now);
  }

  /** Return when `due` has something next. */
  next(): number {
    return this.agenda.next() ?? Infinity;
  }

  /** The deadline of a call that was withdrawn is not looked at any more. */
  forget(): void {
    this.agenda.ended();
  }

  /** End a call, wherever it is. */
  end(pending: Pending, outcome: Outcome, frames: readonly Uint8Array[] = NO_FRAMES): void {
    this.withdraw(pending);
    pending.done(outcome, frames);
    this.agenda.ended();
  }

  /** End the calls that the broker has. */
  endOutstanding(why: MeshError): void {
    for (const pending of [...this.outstanding.values()]) {
      this.end(pending, why);
    }
  }

  /** End every call, those in a pause last. */
  endAll(why: MeshError): void {
    this.endOutstanding(why);
    for (const pending of [...this.waiting, ...this.agenda]) {
      if (!pending.ended) {
        this.end(pending, why);
      }
    }
  }

  private place(now: number, pending: Pending): void {
    pending.id = this.nextId;
    this.nextId += 1;
    pending.sent = false;
    this.outstanding.set(pending.id, pending);
    this.send(now, pending);
  }
}
