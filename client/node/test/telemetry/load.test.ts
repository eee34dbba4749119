import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve, sep } from "node:path";
import { after, describe, it } from "node:test";
import { promisify } from "node:util";

const SRC = join(import.meta.dirname, "..", "..", "src");
const ZEROMQ = resolve(dirname(createRequire(import.meta.url).resolve("zeromq")), "..");

interface Told {
  readonly ok: boolean;
  readonly name: string;
  readonly code: string;
  readonly message: string;
  readonly cause: string;
  readonly details: Readonly<Record<string, unknown>>;
}

/** A copy of the client with a copy of the zeromq package, which may be damaged. */
class Installation {
  readonly dir = mkdtempSync("/tmp/mesh-load");
  readonly zeromq = join(this.dir, "node_modules", "zeromq");

  constructor() {
    cpSync(SRC, join(this.dir, "src"), { recursive: true });
    writeFileSync(join(this.dir, "package.json"), '{ "type": "module" }');
    const isNeeded = (path: string): boolean =>
      !path.endsWith(".node") || path.includes(`${sep}build${sep}${process.platform}${sep}${process.arch}${sep}`);
    cpSync(ZEROMQ, this.zeromq, { recursive: true, filter: isNeeded });
    symlinkSync(resolve(ZEROMQ, "..", "cmake-ts"), join(this.dir, "node_modules", "cmake-ts"));
  }

  binaries(): readonly string[] {
    return readdirSync(join(this.zeromq, "build"), { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".node"))
      .map((path) => join(this.zeromq, "build", path));
  }

  /** Return what a program is told that connects. */
  async connect(): Promise<Told> {
    const program = `
      import { connect, InternalError, NativeModuleError } from "./src/index.js";
      try {
        await (await connect({ endpoint: "ipc:///tmp/nobody-is-here" })).close();
        console.log(JSON.stringify({ ok: true }));
      } catch (error) {
        const ok = !(error instanceof NativeModuleError && error instanceof InternalError);
        const { name, code, message, details, cause } = error;
        console.log(JSON.stringify({ ok, name, code, message, details, cause: cause.message }));
      }`;
    const args = ["--input-type=module", "--eval", program];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: this.dir, timeout: 60_000 });
    return JSON.parse(stdout.split("\n").at(-2) ?? "") as Told;
  }
}

describe("a client whose ZeroMQ cannot be loaded", { timeout: 300_000 }, () => {
  const made: Installation[] = [];
  const install = (): Installation => {
    const installation = new Installation();
    made.push(installation);
    return installation;
  };

  after(() => {
    for (const { dir } of made) {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  function check(told: Told, reason: RegExp, remedy: RegExp): void {
    assert.deepEqual([false, "NativeModuleError", "INTERNAL"], [told.ok, told.name, told.code], told.message);
    const { platform, arch, version: node } = process;
    const libc = platform === "linux" ? { libc: told.details.libc } : {};
    assert.deepEqual({ platform, arch, ...libc, node }, told.details);
    if (platform === "linux") {
      assert.match(String(told.details.libc), /^(glibc [0-9.]+|musl)$/);
      assert.ok(told.message.includes(` with ${String(told.details.libc)}, `), told.message);
    }
    assert.ok(told.message.includes(` on ${platform}-${arch}`), told.message);
    assert.ok(told.message.includes(`Node ${node}: `), told.message);
    assert.match(told.message, reason);
    assert.match(told.message, remedy);
    assert.match(told.cause, reason);
    assert.ok(!told.message.includes("\n"), told.message);
  }

  it("is no such client where the package is as it was published", async () => {
    assert.deepEqual({ ok: true }, await install().connect());
  });

  it("is told where it is and what helps where the binaries are missing", async () => {
    const installation = install();
    for (const path of installation.binaries()) {
      rmSync(path);
    }
    check(await installation.connect(), /addon/, /remove node_modules.zeromq and run `npm install`/);
  });

  it("is told so where they were copied from another kind of machine", async () => {
    const installation = install();
    for (const path of installation.binaries()) {
      writeFileSync(path, "MZ: not for here");
    }
    check(await installation.connect(), /addon/, /remove node_modules.zeromq and run `npm install`/);
  });

  it("is told so where the package was published without any for here", async () => {
    const installation = install();
    writeFileSync(join(installation.zeromq, "build", "manifest.json"), "{}");
    check(await installation.connect(), /No compatible zeromq.js addon found for/, /npm rebuild zeromq.*CMake/);
  });

  it("is told to install it where it is not", async () => {
    const installation = install();
    rmSync(installation.zeromq, { recursive: true });
    check(await installation.connect(), /Cannot find package 'zeromq'/, /npm install/);
  });
});
