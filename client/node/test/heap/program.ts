/**
 * Calls a broker many times, aborts many streams, and writes down as JSON what is left after each tenth of them.
 *
 * Usage: node --expose-gc program.js ENDPOINT CALLS STREAMS
 */

import { getEventListeners } from "node:events";
import { readdirSync } from "node:fs";
import { memoryUsage } from "node:process";
import { setImmediate as turn } from "node:timers/promises";

import { CancelledError, connect, Tensor } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";

/** What a client holds while nothing is under way. */
export interface Sample {
  readonly heap: number;
  /** Bytes outside of the heap, array buffers included. */
  readonly external: number;
  /** Sockets, timers and the like that the event loop knows. */
  readonly resources: number;
  /** Open descriptors; 0 where the system does not list them. */
  readonly descriptors: number;
  /** Listeners of the signal that all calls share. */
  readonly listeners: number;
}

export interface Found {
  readonly samples: readonly Sample[];
  /** Most listeners that the shared signal had while calls were under way. */
  readonly listenersMax: number;
  /** Listeners that ended calls and streams have left on signals of their own. */
  readonly left: number;
  readonly warnings: readonly string[];
  readonly seconds: number;
}

/** The first tenths fill caches and have code compiled; they are looked at, but nothing is asked of them. */
export const PARTS = 10;

/** More than the 64 places of a client, so that some wait for one. */
const CALLERS = 100;
const READERS = 16;
const VALUES = new Float32Array(1024);

async function main(endpoint: string, calls: number, streams: number): Promise<void> {
  const warnings: string[] = [];
  process.on("warning", (warning) => warnings.push(`${warning.name}: ${warning.message}`));
  const started = performance.now();
  const mesh = await connect({ endpoint });
  const load = new Load(mesh);
  const samples: Sample[] = [];
  for (let part = 0; part < PARTS; part++) {
    await side(calls / PARTS, CALLERS, (index) => load.call(index));
    await side(streams / PARTS, READERS, (index) => load.stream(index));
    await load.crowd(calls / PARTS / 10);
    samples.push(await sample(load.shared));
  }
  await mesh.close();
  const { listenersMax, left } = load;
  const seconds = (performance.now() - started) / 1000;
  console.log(JSON.stringify({ samples, listenersMax, left, warnings, seconds } satisfies Found));
}

/** Do something so many times, so many at once. */
async function side(times: number, width: number, act: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const runner = async (): Promise<void> => {
    while (next < times) {
      await act(next++);
    }
  };
  await Promise.all(Array.from({ length: width }, runner));
}

class Load {
  readonly shared = new AbortController().signal;
  listenersMax = 0;
  left = 0;

  constructor(private readonly mesh: Mesh) {}

  /** With the shared signal, one of its own, or none; some with a tensor. */
  async call(index: number): Promise<void> {
    const own = index % 4 === 0 ? new AbortController().signal : undefined;
    const signal = index % 4 === 1 ? undefined : (own ?? this.shared);
    const payload = index % 16 === 0 ? { index, values: Tensor.from(VALUES) } : { index };
    const answer = this.mesh.call("echo", payload, { signal, cache: false });
    this.listenersMax = Math.max(this.listenersMax, getEventListeners(this.shared, "abort").length);
    const { index: back } = (await answer) as typeof payload;
    if (back !== index) {
      throw new Error(`asked ${index}, answered ${back}`);
    }
    this.left += own === undefined ? 0 : getEventListeners(own, "abort").length;
  }

  /** Ended by its signal before its first chunk, by its signal later, or by its reader. */
  async stream(index: number): Promise<void> {
    const ender = new AbortController();
    const stream = this.mesh.stream("tick", index, { signal: index % 4 === 3 ? this.shared : ender.signal });
    try {
      if (index % 4 === 0) {
        queueMicrotask(() => {
          ender.abort();
        });
      }
      for await (const count of stream) {
        if (count === 3 && index % 4 === 3) {
          break;
        }
        if (count === 3) {
          ender.abort(new Error("enough"));
        }
      }
    } catch (error) {
      if (!(error instanceof CancelledError)) {
        throw error;
      }
    }
    this.left += getEventListeners(ender.signal, "abort").length;
  }

  /** So many calls at once that never get an answer, and one signal that ends them all. */
  async crowd(calls: number): Promise<void> {
    const ender = new AbortController();
    const { signal } = ender;
    const ended = Promise.allSettled(
      Array.from({ length: calls }, (_, index) => this.mesh.call("hang", index, { signal })),
    );
    await turn();
    this.listenersMax = Math.max(this.listenersMax, getEventListeners(signal, "abort").length);
    ender.abort();
    for (const end of await ended) {
      if (end.status === "fulfilled" || !(end.reason instanceof CancelledError)) {
        throw new Error("a call went on after its signal", { cause: end });
      }
    }
    this.left += getEventListeners(signal, "abort").length;
  }
}

async function sample(shared: AbortSignal): Promise<Sample> {
  // What finalizers let go of is free after another collection.
  for (let round = 0; round < 4; round++) {
    global.gc?.();
    await turn();
  }
  const { heapUsed, external } = memoryUsage();
  return {
    heap: heapUsed,
    external,
    resources: process.getActiveResourcesInfo().length,
    descriptors: process.platform === "linux" ? readdirSync("/proc/self/fd").length : 0,
    listeners: getEventListeners(shared, "abort").length,
  };
}

if (process.argv[1] === import.meta.filename) {
  const [, , endpoint = "", calls, streams] = process.argv;
  await main(endpoint, Number(calls), Number(streams));
}
