/** The fault proxy of the Python suite, `tests/faults/proxy.py`, in a process of its own. */

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import type { Interface } from "node:readline";
import { join } from "node:path";

import { BIN, end, ROOT } from "./mesh.js";

const PROGRAM = `
import json, sys
from tests.faults.proxy import Proxy

with Proxy(sys.argv[1], seed=7) as proxy:
    print(json.dumps(proxy.endpoint), flush=True)
    for line in sys.stdin:
        way, name, value = json.loads(line)
        if name in ("reset", "half_open", "clear"):
            getattr(proxy, name)()
        else:
            setattr(getattr(proxy, way, proxy), name, value)
        print(json.dumps(proxy.open), flush=True)
`;

/** What can be set for one direction of all connections, by its name in the Python suite. */
export type Toxic = "latency_s" | "jitter_s" | "rate_bytes_s" | "slice_bytes" | "cut_after_bytes";

/** Hurts the connections that go through it. */
export class Proxy implements AsyncDisposable {
  private constructor(
    readonly endpoint: string,
    private readonly process: ChildProcess,
    private readonly lines: Interface,
  ) {}

  /** Start one that listens on a free port and leads to an endpoint. */
  static async to(target: string): Promise<Proxy> {
    const started = spawn(join(BIN, "python"), ["-c", PROGRAM, target], {
      cwd: ROOT,
      stdio: ["pipe", "pipe", "inherit"],
    });
    const lines = createInterface(started.stdout);
    return new Proxy(JSON.parse(await nextOf(lines)) as string, started, lines);
  }

  /** End every connection by a RST. */
  reset(): Promise<void> {
    return this.ask(["", "reset", null]);
  }

  /** Have every connection of now carry nothing more, while both ends take it to be open. */
  halfOpen(): Promise<void> {
    return this.ask(["", "half_open", null]);
  }

  /** Accept connections without ever serving them, or serve them again. */
  stall(on: boolean): Promise<void> {
    return this.ask(["", "stall", on]);
  }

  /** Have something happen to what passes, `up` to the broker or `down` from it. */
  async set(toxic: Toxic, value: number): Promise<void> {
    await this.ask(["up", toxic, value]);
    await this.ask(["down", toxic, value]);
  }

  /** Have everything pass again. */
  clear(): Promise<void> {
    return this.ask(["", "clear", null]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.process, "SIGTERM");
  }

  private async ask(what: readonly [way: string, name: string, value: unknown]): Promise<void> {
    const answered = nextOf(this.lines);
    this.process.stdin?.write(`${JSON.stringify(what)}\n`);
    await answered;
  }
}

function nextOf(lines: Interface): Promise<string> {
  return new Promise((resolve, reject) => {
    const ended = (): void => {
      reject(new Error("the proxy has ended"));
    };
    lines.once("close", ended);
    lines.once("line", (line) => {
      lines.off("close", ended);
      resolve(line);
    });
  });
}
