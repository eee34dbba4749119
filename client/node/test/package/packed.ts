/** The package as npm makes it, and a project that installs it. */

import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

/** `client/node`, from `build/test/package`. */
export const ROOT = join(import.meta.dirname, "..", "..", "..");

/** What of the checkout makes the package. */
const PARTS = ["src", "package.json", "tsconfig.json", "tsconfig.build.json", "README.md", "LICENSE"];

/** What lies about in a checkout and must not get into it. */
const STRAY = ["dist/gone.js", "build/src/index.js", "test/live/mesh.ts", "node.test.js", "secret.json", ".npmrc"];

/** What npm says where it finds no registry. */
const NO_NETWORK = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|network/;

const INSTALL_MS = 60_000;

const runFile = promisify(execFile);

/** How a program ended, and all that it said. */
export interface Ended {
  readonly status: number;
  readonly output: string;
}

/** Run a program to its end. */
export async function run(cwd: string, program: string, ...args: readonly string[]): Promise<Ended> {
  try {
    const { stdout, stderr } = await runFile(program, args, { cwd, env: plainEnv(), timeout: INSTALL_MS });
    return { status: 0, output: stdout + stderr };
  } catch (error) {
    const { code, stdout = "", stderr = "", message } = error as Error & Partial<Record<string, string>>;
    return { status: typeof code === "number" ? code : 1, output: stdout + stderr || message };
  }
}

/** The environment without what `npm test` tells of this package to the scripts that it runs. */
function plainEnv(): NodeJS.ProcessEnv {
  const env = { ...process.env };
  for (const name of Object.keys(env)) {
    if (/^(npm_(package|lifecycle|config_local_prefix|command)|NODE_TEST_CONTEXT|INIT_CWD)/.test(name)) {
      Reflect.deleteProperty(env, name);
    }
  }
  return env;
}

/** The package, made by `npm pack` from a copy of the checkout in which more lies about than there should. */
export class Packed implements Disposable {
  private readonly dir = mkdtempSync(join(tmpdir(), "packed-"));

  /** The archive. */
  archive = "";
  /** Its unpacked content. */
  readonly content = join(this.dir, "package");

  async pack(): Promise<void> {
    const copy = join(this.dir, "checkout");
    for (const part of PARTS) {
      cpSync(join(ROOT, part), join(copy, part), { recursive: true });
    }
    for (const stray of STRAY) {
      mkdirSync(dirname(join(copy, stray)), { recursive: true });
      writeFileSync(join(copy, stray), "");
    }
    symlinkSync(join(ROOT, "node_modules"), join(copy, "node_modules"));
    await this.must(copy, "npm", "pack", "--pack-destination", this.dir);
    const name = readdirSync(this.dir).find((each) => each.endsWith(".tgz"));
    this.archive = join(this.dir, name ?? "npm pack has written nothing");
    await this.must(this.dir, "tar", "-xzf", this.archive);
  }

  /** Paths of all files in it. */
  files(): string[] {
    return filesOf(this.content);
  }

  read(path: string): string {
    return readFileSync(join(this.content, path), "utf8");
  }

  /**
   * Make a project that has it installed, with what the project itself needs to be compiled.
   *
   * @returns its folder, and what to know if there was no registry to install the dependencies from.
   */
  async consumer(): Promise<{ readonly dir: string; readonly note: string | undefined }> {
    const dir = join(this.dir, "consumer");
    mkdirSync(dir);
    writeFileSync(join(dir, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
    const quick = ["--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=1"];
    const installed = await run(dir, "npm", "install", ...quick, this.archive);
    const modules = join(dir, "node_modules");
    let note: string | undefined;
    if (installed.status !== 0) {
      if (!NO_NETWORK.test(installed.output)) {
        throw new Error(`npm install: ${installed.output}`);
      }
      note = "no registry: the package was unpacked, and has the zeromq of the checkout";
      cpSync(this.content, join(modules, "mlx-mesh"), { recursive: true });
      symlinkSync(join(ROOT, "node_modules", "zeromq"), join(modules, "zeromq"));
    }
    mkdirSync(join(modules, "@types"), { recursive: true });
    symlinkSync(join(ROOT, "node_modules", "@types", "node"), join(modules, "@types", "node"));
    return { dir, note };
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }

  private async must(cwd: string, program: string, ...args: readonly string[]): Promise<void> {
    const { status, output } = await run(cwd, program, ...args);
    if (status !== 0) {
      throw new Error(`${program} ${args.join(" ")}: ${output}`);
    }
  }
}

/** Paths of all files below a folder, in order. */
export function filesOf(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => !entry.isDirectory());
  return files.map(({ parentPath, name }) => join(parentPath, name).slice(folder.length + 1)).sort();
}
