import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";

import ts from "typescript";

import { BIN, LiveMesh, PATIENCE_MS, ROOT } from "../live/mesh.js";
import { blocksOf, MIGRATION, README } from "./pages.js";
import type { Block } from "./pages.js";
import { Program } from "./program.js";

const MODEL = "sentence-transformers/all-MiniLM-L6-v2";

/** What the runnable code of each page says. */
const SAID: readonly (readonly [page: string, said: readonly RegExp[]])[] = [
  [
    README,
    [
      new RegExp(`^2 384 ${MODEL}\\nFloat32Array\\(3\\) \\[[^]*Float32Array\\(3\\) \\[[^]*\\]\\n$`),
      /any: \[ 'value', 1, null \][^]*\none\ntwo\n[^]*(length 20|stop \d+)\n[^]*shape: \[ 2, 2 \][^]*'score: ready'/,
      /^hello\n1 0 \d/,
    ],
  ],
  [MIGRATION, [/^384\n$/, /^\[ 1, -1 \]\n$/, /^\[ 1, -1, 0 \]\n3 0 \d/]],
];

describe("examples with real models", { timeout: 4 * PATIENCE_MS }, () => {
  let live: LiveMesh;

  before(async () => {
    live = new LiveMesh({ HF_HUB_OFFLINE: "1" });
    live.broker();
    live.worker("embed", "embed");
    const llama = join(live.dir, "tiny-llama");
    await promisify(execFile)(join(BIN, "python"), ["-m", "benchmarks.llama", llama], { cwd: ROOT });
    live.worker("generate", "generate", "--model", llama);
    live.worker("echo", "echo");
    const [score] = blocksOf(MIGRATION).filter(({ language }) => language === "python");
    writeFileSync(join(live.dir, "score.py"), score?.code ?? "");
    live.worker("score:Score", "score");
    await live.ready("embed", "generate", "echo", "score");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("embed.mjs finds what is alike", async () => {
    const program = new Program(live, "examples/embed.mjs", ["a dog barks", "stock markets fell", "puppies howl"]);
    assert.deepEqual([await program.status(), program.err], [0, ""]);
    const [about, first, second] = program.out.split("\n");
    assert.match(about ?? "", new RegExp(`^3 vectors of 384 by ${MODEL}, from \\d+,\\d+,\\d+ tokens$`));
    assert.match(first ?? "", /^0\.\d+ puppies howl$/);
    assert.match(second ?? "", /^-?0\.\d+ stock markets fell$/);
  });

  it("embed.mjs says by its exit status that it failed", async () => {
    const program = new Program(live, "examples/embed.mjs", ["a", ""]);
    assert.deepEqual([await program.status(), program.out], [1, ""]);
    assert.match(program.err, /^INVALID_REQUEST: texts\[1\] is empty/);
  });

  it("stream.mjs prints a text to its end", async () => {
    const program = new Program(live, "examples/stream.mjs", ["Once upon a time", "12"]);
    assert.equal(await program.status(), 0, program.err);
    assert.match(program.err, /\n(length after 12|stop after \d+) tokens, \d+ of the prompt's \d+ known\n$/);
    assert.ok(program.out.length > 0);
  });

  it("server.mjs embeds and generates over HTTP, and says what is wrong with a request", async () => {
    const program = new Program(live, "examples/server.mjs", [], { PORT: "0", OPS: "embed,generate" });
    const address = await program.address();
    const post = (path: string, body: unknown): Promise<Response> => {
      return fetch(address + path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) });
    };

    assert.deepEqual(await jsonOf(await fetch(`${address}/healthz`)), [200, { live: true }]);
    assert.deepEqual(await jsonOf(await program.readiness()), [200, { ready: true }]);

    const embedded = await post("/embed", { texts: ["one", "two"] });
    const { model, vectors } = (await embedded.json()) as { model: string; vectors: number[][] };
    assert.deepEqual([embedded.status, model, vectors.length, vectors[1]?.length], [200, MODEL, 2, 384]);

    const generated = await post("/generate", { prompt: "Once", maxTokens: 8 });
    assert.equal(generated.status, 200);
    assert.match(generated.headers.get("content-type") ?? "", /^text\/plain/);
    assert.ok((await generated.text()).length > 0);

    const refusals: [string, unknown, number, string][] = [
      ["/embed", { texts: [] }, 400, "INVALID_REQUEST"],
      ["/embed", "{", 400, "INVALID_REQUEST"],
      ["/embed", "null", 400, "INVALID_REQUEST"],
      ["/generate", { prompt: { no: "text" } }, 400, "INVALID_REQUEST"],
      ["/embed", "x".repeat(3_000_000), 413, "TOO_LARGE"],
      ["/nothing", {}, 404, "NOT_FOUND"],
    ];
    for (const [path, body, status, error] of refusals) {
      const [got, answer] = await jsonOf(await post(path, body));
      assert.deepEqual([got, (answer as { error: string }).error], [status, error], path);
    }
    program.kill("SIGTERM");
    assert.deepEqual([await program.status(), program.err], [0, ""]);
  });

  for (const [page, said] of SAID) {
    it(`the code of ${page} runs`, async () => {
      const runnable = blocksOf(page).filter(({ mark }) => mark === "runnable");
      assert.equal(runnable.length, said.length);
      for (const [index, block] of runnable.entries()) {
        const program = new Program(live, compiled(live, block));
        assert.deepEqual([await program.status(), program.err], [0, ""], `block ${block.number}`);
        assert.match(program.out, said[index] ?? /^$/);
      }
    });
  }
});

/** The times of a call, which are meant for machines that nothing holds up. */
const TIMES = /(?<=timeoutMs: |AbortSignal\.timeout\()[\d_]+/g;

/** Write code of a page as a program, whose calls may take as long as need be; return its path. */
function compiled(live: LiveMesh, { page, number, code }: Block): string {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  const path = join(live.dir, `${page.replaceAll("/", "-")}-${number}.mjs`);
  const patient = code.replaceAll(TIMES, String(PATIENCE_MS));
  writeFileSync(path, ts.transpileModule(patient, { compilerOptions }).outputText);
  return path;
}

async function jsonOf(response: Response): Promise<[number, unknown]> {
  return [response.status, await response.json()];
}
