import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";

import ts from "typescript";

import { DEFAULT_TIMEOUT_MS, WINDOW } from "../../src/client/checks.js";
import { UNREAD_MAX } from "../../src/client/events.js";
import { HELD_MAX_BYTES, LINGER_MS } from "../../src/client/link.js";
import { CHARS_PER_REQUEST, TEXTS_PER_REQUEST } from "../../src/client/texts.js";
import { connect, createPool, ERROR_CLASSES, Mesh, MeshError } from "../../src/index.js";
import { CONCURRENT_MAX } from "../../src/pool/options.js";
import { WAITING_MAX } from "../../src/session/lanes.js";
import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS, BUDGET_MAX, BUDGET_PER_REQUEST } from "../../src/session/retry.js";
import * as limits from "../../src/wire/limits.js";
import { FakeMesh } from "../client/fake.js";
import { ROOT } from "../live/mesh.js";
import { blocksOf, MIGRATION, quoted, README, rowsBehind } from "./pages.js";

const PACKAGE = join(ROOT, "client", "node");
const MIB = 1024 * 1024;

/** Modules that only the code of before needs; nothing is said of their types. */
const BEFORE = `declare module "piscina"; declare module "python-shell";`;

const OPTIONS: ts.CompilerOptions = {
  ...{ allowJs: true, checkJs: true, noEmit: true, skipLibCheck: true, strict: true, noImplicitAny: false },
  target: ts.ScriptTarget.ES2022,
  lib: ["lib.es2022.d.ts", "lib.es2024.string.d.ts", "lib.esnext.disposable.d.ts"],
  module: ts.ModuleKind.Node16,
  moduleResolution: ts.ModuleResolutionKind.Node16,
  types: ["node"],
  typeRoots: [join(PACKAGE, "node_modules", "@types")],
  paths: { "mlx-mesh": [join(PACKAGE, "src", "index.ts")], "mlx-mesh/otel": [join(PACKAGE, "src", "otel.ts")] },
};

/** Return what the compiler has to say against some files. */
function faultsOf(files: readonly string[]): readonly string[] {
  const faults = ts.getPreEmitDiagnostics(ts.createProgram(files, OPTIONS));
  return faults.map(({ file, start, messageText }) => {
    const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : 0;
    return `${file?.fileName ?? ""}:${line}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
}

/** Return the options that a call says there are, when it is given another. */
async function allowed(act: (options: object) => unknown): Promise<string[]> {
  try {
    await act({ zzz: 1 });
  } catch (error) {
    const [, names = ""] =
      /"zzz" is no option; there are (.*)$/.exec(error instanceof MeshError ? error.message : "") ?? [];
    return names.split(", ").sort();
  }
  assert.fail("it was not refused");
}

describe("the pages", () => {
  it("have code, as the examples do, that the compiler takes; and it would not take any", () => {
    const folder = mkdtempSync("/tmp/mesh-pages");
    try {
      const blocks = ["README.md", README, MIGRATION].flatMap(blocksOf).filter(({ language }) => language !== "python");
      assert.ok(blocks.length >= 12);
      const files = blocks.map(({ page, number, language, code }) => {
        assert.ok(language === "ts" || language === "js", `${page}, block ${number}: ${language}`);
        return [`${page.replaceAll("/", "-")}-${number}.m${language}`, code] as const;
      });
      const wrong = 'import { connect } from "mlx-mesh";\n(await connect()).embed(5);\nexport {};\n';
      for (const [name, code] of [...files, ["before.d.ts", BEFORE] as const, ["wrong.mts", wrong] as const]) {
        writeFileSync(join(folder, name), code);
      }
      const examples = readdirSync(join(PACKAGE, "examples")).map((name) => join(PACKAGE, "examples", name));
      const faults = faultsOf([...readdirSync(folder).map((name) => join(folder, name)), ...examples]);
      assert.deepEqual(
        faults.filter((fault) => !fault.includes("wrong.mts")),
        [],
      );
      assert.match(faults.join("\n"), /wrong\.mts:2: Argument of type 'number'/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("have all calls of a client", () => {
    const own = Object.getOwnPropertyNames(Mesh.prototype).filter((name) => /^[a-z]+$/.test(name));
    const internal = ["constructor", "leave", "request", "side", "timed"];
    const told = rowsBehind(README, "## Calls").map(([call = ""]) => /^`(\w+)\(/.exec(call)?.[1] ?? call);
    assert.deepEqual(told.sort(), [...own.filter((name) => !internal.includes(name)), "connect", "createPool"].sort());
  });

  it("have all options of all calls", async () => {
    await using mesh = new FakeMesh().mesh;
    const common = rowsBehind(README, "Every call takes:").flatMap(([cell = ""]) => quoted(cell));
    const some = rowsBehind(README, "Beside those, some take:");
    const calls: readonly (readonly [name: string, act: (options: object) => unknown])[] = [
      ["call", (options) => mesh.call("echo", 1, options)],
      ["embed", (options) => mesh.embed("a", options)],
      ["stream", (options) => mesh.stream("echo", 1, options)],
      ["generate", (options) => mesh.generate("a", options)],
      ["chat", (options) => mesh.chat([], options)],
    ];
    for (const [name, act] of calls) {
      const own = some.filter(([, of = ""]) => quoted(of).includes(name)).flatMap(([cell = ""]) => quoted(cell));
      assert.deepEqual([...common, ...own].sort(), await allowed(act), name);
    }
    const connecting = rowsBehind(README, "`connect` takes:").flatMap(([cell = ""]) => quoted(cell));
    assert.deepEqual(connecting.sort(), await allowed((options) => connect(options)));
  });

  it("have all errors as they are", () => {
    const told = rowsBehind(README, "time and a budget. Each code has a class:").map(
      ([code = "", name = "", again]) => {
        return [quoted(code)[0], quoted(name)[0], again];
      },
    );
    const are = Object.entries(ERROR_CLASSES).map(([code, Kind]) => {
      return [code, Kind.name, new Kind("").retryable ? "yes" : "no"];
    });
    assert.deepEqual(told, are);
  });

  it("have the bounds as they are", async () => {
    await using mesh = new FakeMesh().mesh;
    const pool = createPool({ mesh }).options;
    const bounds: readonly (readonly [row: string, ...numbers: number[]])[] = [
      ["time of a call", DEFAULT_TIMEOUT_MS],
      ["requests that the broker has of one client", limits.OUTSTANDING_MAX],
      ["calls that wait in the client beyond those", WAITING_MAX],
      ["bodies of all calls under way", HELD_MAX_BYTES / MIB],
      ["a message", limits.MESSAGE_MAX_BYTES / MIB, limits.FRAMES_MAX - 2],
      ["levels of a payload", limits.BODY_DEPTH_MAX],
      ["window of a stream", WINDOW, limits.WINDOW_MAX_CHUNKS],
      ["texts in one request of `embed`", TEXTS_PER_REQUEST, CHARS_PER_REQUEST, 16],
      ["pause before a retry", BACKOFF_FIRST_MS, BACKOFF_MAX_MS],
      ["budget for retries", BUDGET_MAX, 1, BUDGET_PER_REQUEST],
      ["events left unread", UNREAD_MAX],
      ["time that `close` takes to say goodbye", LINGER_MS],
      ["tasks of a pool under way", pool.concurrentTasks, CONCURRENT_MAX],
      ["tasks that wait in a pool", pool.maxQueue, HELD_MAX_BYTES / MIB],
    ];
    const told = new Map(rowsBehind(README, "## Bounds and defaults").map(([row = "", bound = ""]) => [row, bound]));
    for (const [row, ...numbers] of bounds) {
      const found = (told.get(row) ?? "").replaceAll(",", "").match(/\d+(\.\d+)?/g) ?? [];
      assert.deepEqual(found.map(Number), numbers, row);
    }
    assert.equal(limits.REMAINING_MAX_MS, 7 * 24 * 3600 * 1000);
  });
});
