/** What happens to a client's connection, for whoever wants to watch it. */

import type { SessionEvent } from "../session/session.js";

/** What is told by {@link Mesh.events}. */
export type MeshEvent =
  | { readonly type: "connected"; readonly epoch: string }
  /** A broker that was started anew: it knows nothing of what was before. */
  | { readonly type: "epoch"; readonly epoch: string; readonly previous: string }
  | { readonly type: "reconnecting"; readonly reason: "silence" | "gap" | "fault" | "garbage" }
  /** The reader of a stream let its worker wait for so long. */
  | { readonly type: "slow"; readonly op: string; readonly waitedMs: number }
  | { readonly type: "closed" };

/** Events that a watcher may leave unread; of more, the oldest are dropped. */
export const UNREAD_MAX = 256;

/** Hands events to all who watch. */
export class EventHub {
  private readonly watchers = new Set<Watcher>();
  private closed = false;

  /** Tell an event; `closed` is the last. */
  emit(event: MeshEvent | SessionEvent): void {
    this.closed ||= event.type === "closed";
    for (const watcher of this.watchers) {
      watcher.take(event);
    }
  }

  /** Return the events from now on, after the one that says how things stand. */
  watch(state: MeshEvent | undefined): AsyncIterableIterator<MeshEvent, undefined> {
    const watcher = new Watcher((ended) => this.watchers.delete(ended));
    this.watchers.add(watcher);
    const first: MeshEvent | undefined = this.closed ? { type: "closed" } : state;
    if (first !== undefined) {
      watcher.take(first);
    }
    return watcher;
  }
}

class Watcher implements AsyncIterableIterator<MeshEvent, undefined> {
  private readonly unread: MeshEvent[] = [];
  private readonly readers: ((result: IteratorResult<MeshEvent, undefined>) => void)[] = [];
  private over = false;

  constructor(private readonly onEnd: (watcher: Watcher) => void) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<MeshEvent, undefined>> {
    const value = this.unread.shift();
    if (value !== undefined) {
      return Promise.resolve({ value, done: false });
    }
    if (this.over) {
      return Promise.resolve({ value: undefined, done: true });
    }
    return new Promise((resolve) => this.readers.push(resolve));
  }

  return(): Promise<IteratorResult<MeshEvent, undefined>> {
    this.unread.length = 0;
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  take(value: MeshEvent): void {
    const reader = this.readers.shift();
    if (reader !== undefined) {
      reader({ value, done: false });
    } else {
      this.unread.push(value);
      if (this.unread.length > UNREAD_MAX) {
        this.unread.shift();
      }
    }
    if (value.type === "closed") {
      this.end();
    }
  }

  private end(): void {
    this.over = true;
    this.onEnd(this);
    for (const reader of this.readers.splice(0)) {
      reader({ value: undefined, done: true });
    }
  }
}
