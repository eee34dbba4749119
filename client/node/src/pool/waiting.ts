/** Tasks that wait for a place in their pool: by lane, and within bounds of number and size. */

import { sizeOf } from "../client/incoming.js";
import { HELD_MAX_BYTES } from "../client/link.js";
import { OverloadedError } from "../errors.js";
import { Lanes } from "../session/lanes.js";
import type { Call } from "../session/pending.js";
import type { Task } from "./task.js";

export class WaitingTasks {
  private readonly lanes = new Lanes<Task>();
  private bytes = 0;

  /** @param sizeMax - how many may wait. */
  constructor(private readonly sizeMax: number) {}

  /** How many wait. */
  get size(): number {
    return this.lanes.size;
  }

  /** Those that wait, in the order in which they are begun. */
  [Symbol.iterator](): Iterator<Task> {
    return this.lanes[Symbol.iterator]();
  }

  /** @throws {@link OverloadedError} there is no room for one more, or for one of this size. */
  checkRoom({ frames }: Call): void {
    if (this.size >= this.sizeMax) {
      throw new OverloadedError(`${this.sizeMax} tasks wait in this pool already; give it fewer at once`, {
        details: { limit: this.sizeMax },
      });
    }
    if (this.bytes + sizeOf(frames) > HELD_MAX_BYTES) {
      throw new OverloadedError(`tasks of ${this.bytes} bytes wait in this pool; give it fewer at once`, {
        details: { limit: HELD_MAX_BYTES },
      });
    }
  }

  add(task: Task): void {
    this.lanes.add(task);
    this.bytes += sizeOf(task.call.frames);
  }

  /** A task waits no longer, if it did. */
  delete(task: Task): void {
    if (this.lanes.delete(task)) {
      this.bytes -= sizeOf(task.call.frames);
    }
  }

  /** Remove and return the task that is to be begun next. */
  shift(): Task | undefined {
    const task = this.lanes.shift();
    if (task !== undefined) {
      this.bytes -= sizeOf(task.call.frames);
    }
    return task;
  }
}
