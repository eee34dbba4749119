/** Real processes of a mesh in a run directory of their own. */

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { connect } from "../../src/index.js";
import type { Mesh } from "../../src/index.js";
import { ENGINES } from "./engines.js";

/** Generous: these machines are small, shared and noisy. */
export const PATIENCE_MS = 60_000;

/** The checkout, wherever in it the tests are compiled to. */
export const ROOT = checkout(import.meta.dirname);
export const BIN = process.env.MLX_MESH_TEST_BIN ?? join(ROOT, ".venv", "bin");

/** The engine of the Python trials, as the module `trial` of a run directory. */
const TRIAL = textOf("tests.faults.mixes.engine", "TRIAL");

const VARIABLES = ["MLX_MESH_ENDPOINT", "MLX_MESH_KEYS", "MLX_MESH_CONTROL", "MLX_MESH_CONTROL_KEYS"];

/** Starts and stops programs by their pids; their logs are files in the run directory. */
export class LiveMesh implements AsyncDisposable {
  readonly dir = mkdtempSync("/tmp/mesh");
  readonly endpoint = `ipc://${this.dir}/frontend.sock`;
  private readonly env: NodeJS.ProcessEnv;
  private readonly processes: ChildProcess[] = [];
  private readonly clients: Mesh[] = [];

  /** @param settings - environment variables of all its programs. */
  constructor(settings: Readonly<Record<string, string>> = {}) {
    this.env = { ...process.env, MLX_MESH_RUN_DIR: this.dir, MLX_MESH_KEYS_DIR: join(this.dir, "keys") };
    Object.assign(this.env, { OPENBLAS_NUM_THREADS: "1", PYTHONPATH: this.dir });
    for (const name of VARIABLES) {
      Reflect.deleteProperty(this.env, name);
    }
    Object.assign(this.env, settings);
    writeFileSync(join(this.dir, "mine.py"), textOf("tests.shown_engine", "SHOWN") + ENGINES);
    writeFileSync(join(this.dir, "trial.py"), TRIAL);
  }

  broker(...args: readonly string[]): ChildProcess {
    return this.start("mlx-mesh-broker", "broker", args);
  }

  worker(engine: string, name: string, ...args: readonly string[]): ChildProcess {
    return this.start("mlx-mesh-worker", name, ["--engine", engine, "--name", name, ...args]);
  }

  /** Start a broker, and workers with the names of their engines: that of `mine:Ticker` is `ticker`. */
  serve(...engines: readonly string[]): void {
    this.broker();
    for (const engine of engines) {
      this.worker(engine, engine.replace(/^.*:/, "").toLowerCase());
    }
  }

  /** Run a command to its end. */
  async command(program: string, ...args: readonly string[]): Promise<void> {
    const [status] = (await once(this.start(program, program, args), "exit")) as [number];
    if (status !== 0) {
      throw new Error(`${program} ${args.join(" ")}: exit status ${status}\n${this.log(program)}`);
    }
  }

  /** A client that is closed with the mesh. */
  async client(endpoint = this.endpoint, keys?: string): Promise<Mesh> {
    const client = await connect({ endpoint, keys });
    this.clients.push(client);
    return client;
  }

  /** A client of a mesh that serves these ops. */
  async ready(...ops: readonly string[]): Promise<Mesh> {
    const client = await this.client();
    await client.ready({ ops, timeoutMs: PATIENCE_MS });
    return client;
  }

  log(name: string): string {
    const path = join(this.dir, `${name}.log`);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  /** What the engines wrote down. */
  said(): readonly string[] {
    const path = join(this.dir, "said");
    return existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
    await Promise.all(this.processes.map((each) => end(each, "SIGTERM")));
    rmSync(this.dir, { recursive: true, force: true });
  }

  private start(program: string, name: string, args: readonly string[]): ChildProcess {
    const log = openSync(join(this.dir, `${name}.log`), "a");
    const started = spawn(join(BIN, program), args, { env: this.env, cwd: this.dir, stdio: ["ignore", log, log] });
    closeSync(log);
    this.processes.push(started);
    return started;
  }
}

/** End a process and wait until it is gone; one that does not go is killed. */
export async function end(program: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (program.exitCode !== null || program.signalCode !== null) {
    return;
  }
  const gone = once(program, "exit");
  program.kill("SIGCONT");
  program.kill(signal);
  const killer = setTimeout(() => program.kill("SIGKILL"), 15_000);
  await gone;
  clearTimeout(killer);
}

/** Return once something is so. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!isSo()) {
    if (performance.now() > end) {
      throw new Error(`${what} did not come true within ${PATIENCE_MS} ms`);
    }
    await sleep(20);
  }
}

/** A Python program that runs the text which a module of the Python tests holds under a name. */
function textOf(module: string, name: string): string {
  return `
import sys
sys.path.insert(0, ${JSON.stringify(ROOT)})
from ${module} import ${name}
exec(${name})
`;
}

function checkout(folder: string): string {
  return existsSync(join(folder, "pyproject.toml")) ? folder : checkout(dirname(folder));
}
