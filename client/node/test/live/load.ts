/** Callers that ask throughout a trial and check every answer. */

import { setTimeout as sleep } from "node:timers/promises";

import { MeshError } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { chanceOf } from "../chance.js";
import { flaw, question } from "./questions.js";
import type { Kind, Question } from "./questions.js";

/** Beyond its deadline a call may end so much later, on machines that are small, shared and noisy. */
const GRACE_MS = 10_000;

/** Between two calls of a caller: all together keep the mesh busy and the machine not saturated. */
const PAUSE_MS = 10;

const CALLERS = 10;

/** What became of all calls of a trial. */
export class Tally {
  readonly calls: Partial<Record<Kind, number>> = {};
  /** `kind CODE` of errors, each with how often and an example. */
  readonly errors = new Map<string, { count: number; readonly example: string }>();
  /** Answers that were wrong or came twice, and calls that did not end in time. */
  readonly flaws: string[] = [];

  get size(): number {
    return Object.values(this.calls).reduce((sum, count) => sum + count, 0);
  }

  /** Return the errors that a trial does not allow. */
  beyond(allowed: readonly string[]): string[] {
    return [...this.errors].flatMap(([words, { count, example }]) =>
      allowed.includes(words) ? [] : [`${count} times ${words}: ${example}`],
    );
  }

  error(words: string, example: string): void {
    const found = this.errors.get(words) ?? { count: 0, example };
    found.count += 1;
    this.errors.set(words, found);
  }
}

let loads = 0;

/** Asks from when it is made until it is stopped. */
export class Load {
  readonly tally = new Tally();
  private stopping = false;
  private readonly name = `node-${process.pid}-${++loads}`;
  private readonly callers: Promise<unknown>;

  /** @param timeoutMs - of each call, but for those that are hasty on purpose. */
  constructor(
    private readonly mesh: Mesh,
    private readonly timeoutMs: number,
  ) {
    this.callers = Promise.all(Array.from({ length: CALLERS }, (_, number) => this.ask(number)));
    this.callers.catch(() => undefined);
  }

  /** Let all calls end, and return what became of them. */
  async stop(): Promise<Tally> {
    this.stopping = true;
    await this.callers;
    return this.tally;
  }

  private async ask(number: number): Promise<void> {
    const chance = chanceOf(1000 + number);
    for (let count = 0; !this.stopping; count++) {
      await this.one(question(`${this.name}.${number}/${count}`, this.timeoutMs, chance));
      await sleep(PAUSE_MS);
    }
  }

  private async one(asked: Question): Promise<void> {
    const { calls } = this.tally;
    calls[asked.kind] = (calls[asked.kind] ?? 0) + 1;
    const began = performance.now();
    const chunks: unknown[] = [];
    const late = new AbortController();
    const given = await Promise.race([
      this.outcome(asked, chunks),
      sleep(asked.timeoutMs + 2 * GRACE_MS, "never", { signal: late.signal }),
    ]);
    late.abort();
    const tookMs = performance.now() - began;
    if (given === "never" || tookMs > asked.timeoutMs + GRACE_MS) {
      this.tally.flaws.push(`lost: ${asked.kind} ended after ${tookMs} ms, if at all`);
    }
    if (given instanceof MeshError) {
      this.tally.error(`${asked.kind} ${given.code}`, `after ${Math.round(tookMs)} ms: ${given.message}`);
    }
    // What came before an error has to be right as well.
    const fault =
      given === "never" || given instanceof MeshError
        ? asked.chunks && flaw({ ...asked, keep: chunks.length }, chunks, undefined)
        : flaw(asked, chunks, given);
    if (fault !== undefined) {
      this.tally.flaws.push(`${asked.kind} ${fault}`);
    }
  }

  private async outcome(asked: Question, chunks: unknown[]): Promise<unknown> {
    const { op, value, timeoutMs } = asked;
    try {
      if (asked.chunks === undefined) {
        return await this.mesh.call(op, value, { timeoutMs, atMostOnce: op === "once" });
      }
      const stream = this.mesh.stream(op, value, { timeoutMs });
      if (asked.keep === 0) {
        await stream.return();
        return undefined;
      }
      for await (const chunk of stream) {
        chunks.push(chunk);
        if (chunks.length === asked.keep) {
          break;
        }
      }
      return stream.result;
    } catch (error) {
      if (error instanceof MeshError) {
        return error;
      }
      throw error;
    }
  }
}
