import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { LiveMesh, PATIENCE_MS, until } from "../live/mesh.js";
import { Program } from "./program.js";

/** An `embed` that never answers, and tells of its begin and its end. */
const SLOW = `
from mine import Ticker

class Slow(Ticker):
    ops = ("embed",)
`;

describe("examples whose readers leave", { timeout: 4 * PATIENCE_MS }, () => {
  let live: LiveMesh;

  before(async () => {
    live = new LiveMesh();
    writeFileSync(join(live.dir, "slow.py"), SLOW);
    live.broker();
    live.worker("mine:Teller", "teller");
    live.worker("slow:Slow", "slow");
    await live.ready("generate", "embed");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  function cancels(what: string): number {
    return live.said().filter((line) => line.startsWith(`cancel ${what}`)).length;
  }

  async function generate(address: string, maxTokens: number, signal: AbortSignal | null): Promise<Reader> {
    const body = JSON.stringify({ prompt: "Once", maxTokens });
    const response = await fetch(`${address}/generate`, { method: "POST", body, signal });
    assert.equal(response.status, 200);
    return response.body?.pipeThrough(new TextDecoderStream()).getReader() ?? assert.fail("there is no body");
  }

  it("stream.mjs ends the work in the worker at Ctrl-C, and keeps what came", async () => {
    const before = cancels("text");
    const program = new Program(live, "examples/stream.mjs", ["Once", "100000"]);
    await until("some text came", () => program.out.includes("10 "));
    program.kill("SIGINT");
    assert.deepEqual([await program.status(), program.err], [0, "\nleft\n"]);
    await until("the worker was told", () => cancels("text") === before + 1);
  });

  it("server.mjs ends a text in the worker when its client disconnects", async () => {
    const before = cancels("text");
    const program = new Program(live, "examples/server.mjs", [], { PORT: "0" });
    const address = await program.address();
    const client = new AbortController();
    const reader = await generate(address, 100_000, client.signal);
    assert.match((await reader.read()).value ?? "", /^0 1 /);
    client.abort();
    await until("the worker was told", () => cancels("text") === before + 1);
    assert.equal((await fetch(`${address}/healthz`)).status, 200);
    program.kill("SIGTERM");
    assert.deepEqual([await program.status(), program.err], [0, ""]);
  });

  it("server.mjs ends a single call in the worker when its client disconnects", async () => {
    const program = new Program(live, "examples/server.mjs", [], { PORT: "0" });
    const address = await program.address();
    const client = new AbortController();
    const body = JSON.stringify({ texts: ["left"] });
    const asked = fetch(`${address}/embed`, { method: "POST", body, signal: client.signal });
    await until("it began", () => live.said().some((line) => line.startsWith("begin") && line.includes("left")));
    client.abort();
    await assert.rejects(asked, { name: "AbortError" });
    await until("the worker was told", () => live.said().some((line) => /^cancel .*left/.test(line)));
    program.kill("SIGTERM");
    assert.deepEqual([await program.status(), program.err], [0, ""]);
  });

  it("server.mjs lets a text come to its end after SIGTERM, takes no connection, and exits", async () => {
    const program = new Program(live, "examples/server.mjs", [], { PORT: "0" });
    const address = await program.address();
    const reader = await generate(address, 300, null);
    let text = (await reader.read()).value ?? "";
    program.kill("SIGTERM");
    for (let isRefused = false; !isRefused;) {
      isRefused = await fetch(`${address}/healthz`, { headers: { connection: "close" } }).then(
        () => false,
        () => true,
      );
    }
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      text += piece.value;
    }
    assert.equal(text, Array.from({ length: 300 }, (_, number) => `${number} `).join(""));
    assert.deepEqual([await program.status(), program.err], [0, ""]);
  });

  it("server.mjs is not ready where no worker serves an op of its", async () => {
    const program = new Program(live, "examples/server.mjs", [], { PORT: "0", OPS: "embed,sing" });
    const response = await program.readiness();
    assert.equal(response.status, 503);
    assert.match(((await response.json()) as { message: string }).message, /sing/);
    program.kill("SIGINT");
    assert.equal(await program.status(), 0);
  });
});

type Reader = ReadableStreamDefaultReader<string>;
