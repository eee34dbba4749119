/** The examples as programs of somebody who has installed the package. */

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { PATIENCE_MS, ROOT, until } from "../live/mesh.js";
import type { LiveMesh } from "../live/mesh.js";

const PACKAGE = join(ROOT, "client", "node");
const COMPILED = join(import.meta.dirname, "..", "..", "src");

/** Put the examples, and the package as it is compiled for the tests, into a folder. */
export function install(folder: string): void {
  const installed = join(folder, "node_modules", "mlx-mesh");
  if (existsSync(installed)) {
    return;
  }
  mkdirSync(installed, { recursive: true });
  symlinkSync(COMPILED, join(installed, "dist"));
  writeFileSync(join(installed, "package.json"), JSON.stringify({ type: "module", exports: "./dist/index.js" }));
  cpSync(join(PACKAGE, "examples"), join(folder, "examples"), { recursive: true, dereference: true });
}

/** A program that was started, and what it has said so far. */
export class Program {
  out = "";
  err = "";
  private readonly child: ChildProcess;
  private readonly closed: Promise<unknown>;

  /** Start a file in the folder of a mesh, whose run directory it is; what does not end by itself is killed. */
  constructor(live: LiveMesh, file: string, args: readonly string[] = [], env: NodeJS.ProcessEnv = {}) {
    install(live.dir);
    const own: NodeJS.ProcessEnv = { ...process.env, MLX_MESH_RUN_DIR: live.dir, ...env };
    Reflect.deleteProperty(own, "MLX_MESH_ENDPOINT");
    Reflect.deleteProperty(own, "MLX_MESH_KEYS");
    const child = spawn(process.execPath, [file, ...args], { cwd: live.dir, env: own, stdio: "pipe" });
    child.stdout.on("data", (data: Buffer) => (this.out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (this.err += data.toString()));
    const killer = setTimeout(() => child.kill("SIGKILL"), 2 * PATIENCE_MS);
    this.closed = once(child, "close").then(() => {
      clearTimeout(killer);
    });
    this.child = child;
  }

  /** Return its exit status once it has ended; null if it was killed. */
  async status(): Promise<number | null> {
    await this.closed;
    return this.child.exitCode;
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Return what its HTTP server says of its readiness; a broker that is held up costs it a 504, and a probe comes again. */
  async readiness(): Promise<Response> {
    const url = `${await this.address()}/readyz`;
    let response = await fetch(url);
    for (const end = performance.now() + PATIENCE_MS; response.status === 504 && performance.now() < end;) {
      await response.text();
      response = await fetch(url);
    }
    return response;
  }

  /** Return where its HTTP server is. */
  async address(): Promise<string> {
    const isThere = (): string | undefined => /http:\S+/.exec(this.out)?.[0];
    await until("the server listens", () => isThere() !== undefined || this.child.exitCode !== null);
    return isThere() ?? this.err;
  }
}
