/** The mesh of the trials: processes that are started again when they end, and what can be done to them. */

import type { ChildProcess } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

import type { Mesh } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS } from "./mesh.js";

const WORKERS = { "trial-0": "trial:Trial", "trial-1": "trial:Trial", "echo-0": "echo", "echo-1": "echo" } as const;

const SETTINGS = {
  // On a busy machine a process may take longer to start than the 5 s for which work waits otherwise.
  MLX_MESH_BROKER_REJOIN_S: "15",
  // Where we kill, a request that two deaths hit is no poison, which the mesh cannot know.
  MLX_MESH_BROKER_DEATHS_MAX: "10",
  // Connections live for so short a time that a job may be on its way more often than 16 times.
  MLX_MESH_BROKER_ATTEMPTS_MAX: "1000",
  // Trials are over in seconds: who is silent is given up sooner.
  MLX_MESH_BROKER_SUSPECT_S: "1.5",
  MLX_MESH_BROKER_LOST_S: "2",
  MLX_MESH_BROKER_PING_S: "0.3",
  MLX_MESH_BROKER_SILENT_S: "1.5",
};

/** A broker and workers, each started again at once when it ends, as supervisord does. */
export class Stage implements AsyncDisposable {
  readonly live = new LiveMesh(SETTINGS);
  private readonly processes = new Map<string, ChildProcess>();
  private watcher: Mesh | undefined;
  private over = false;

  /** Start everything and return once all workers are ready. */
  async start(): Promise<void> {
    this.keep("broker", () => this.live.broker("--metrics-port", "off"));
    for (const [name, engine] of Object.entries(WORKERS)) {
      this.keep(name, () => this.live.worker(engine, name));
    }
    this.watcher = await this.live.client();
    await this.whole();
  }

  /** Return once all workers are ready. */
  async whole(): Promise<void> {
    const until = performance.now() + PATIENCE_MS;
    while ((await this.ready()).length < Object.keys(WORKERS).length) {
      if (performance.now() > until) {
        throw new Error(`not all workers are ready after ${PATIENCE_MS} ms\n${this.live.log("broker").slice(-2000)}`);
      }
      await sleep(50);
    }
  }

  /** SIGKILL a worker that another can stand in for; return whether there is one. */
  async killWorker(chance: () => number): Promise<boolean> {
    const ready = await this.ready();
    const kinds = ready.map(kindOf);
    const spare = ready.filter((_, at) => kinds.indexOf(kinds[at] ?? "") !== kinds.lastIndexOf(kinds[at] ?? ""));
    const chosen = spare[Math.floor(chance() * spare.length)];
    return chosen !== undefined && this.signal(chosen, "SIGKILL");
  }

  /** SIGKILL the broker. */
  killBroker(): boolean {
    return this.signal("broker", "SIGKILL");
  }

  /** Stop a process for so long. */
  async freeze(name: string, ms: number): Promise<void> {
    this.signal(name, "SIGSTOP");
    await sleep(ms);
    this.signal(name, "SIGCONT");
  }

  /** Return a worker by chance. */
  anyWorker(chance: () => number): string {
    const names = Object.keys(WORKERS);
    return names[Math.floor(chance() * names.length)] ?? "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.over = true;
    await this.live[Symbol.asyncDispose]();
  }

  private keep(name: string, start: () => ChildProcess): void {
    const started = start();
    this.processes.set(name, started);
    started.once("exit", () => {
      if (!this.over) {
        this.keep(name, start);
      }
    });
  }

  private signal(name: string, signal: NodeJS.Signals): boolean {
    return this.processes.get(name)?.kill(signal) ?? false;
  }

  private async ready(): Promise<string[]> {
    try {
      const { workers } = (await this.watcher?.status({ timeoutMs: 2000 })) ?? { workers: [] };
      // One whose process has just ended may still be told of.
      const alive = new Set([...this.processes.values()].map(({ pid }) => pid));
      return workers
        .filter(({ state, pid }) => state === "ready" && typeof pid === "number" && alive.has(pid))
        .map(({ name }) => name);
    } catch {
      return []; // The broker is away.
    }
  }
}

function kindOf(worker: string): string {
  return worker.split("-", 1)[0] ?? "";
}
