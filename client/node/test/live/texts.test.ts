/** Texts over the deaths of what tells them, and of what carries them: every token once, in order. */

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import type { Generation, Mesh } from "../../src/index.js";
import { end, LiveMesh, PATIENCE_MS, until } from "./mesh.js";
import { Proxy } from "./proxy.js";

describe("texts of a mesh that is hurt", { timeout: 6 * PATIENCE_MS }, () => {
  const live = new LiveMesh({ MLX_MESH_BROKER_DEATHS_MAX: "10", MLX_MESH_BROKER_REJOIN_S: "15" });
  const workers = new Map<string, ChildProcess>();
  let broker: ChildProcess;

  before(() => {
    broker = live.broker("--metrics-port", "off");
    for (const name of ["one", "two"]) {
      work(name);
    }
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  function work(name: string): void {
    workers.set(name, live.worker("mine:Teller", name));
  }

  async function ready(mesh: Mesh): Promise<void> {
    await mesh.ready({ ops: "generate", timeoutMs: PATIENCE_MS });
    while ((await mesh.status()).workers.filter(({ state }) => state === "ready").length < workers.size) {
      await sleep(20);
    }
  }

  /** SIGKILL the worker that tells the most. */
  async function killTeller(mesh: Mesh): Promise<void> {
    const told = [...(await mesh.status()).workers].sort((a, b) => Number(b.in_flight) - Number(a.in_flight));
    const [{ name } = { name: "" }] = told;
    const teller = workers.get(name);
    assert.ok(teller);
    await end(teller, "SIGKILL");
    work(name);
  }

  it("go on elsewhere, whatever worker is killed", async () => {
    const mesh = await live.client();
    await ready(mesh);
    // No text is over before its worker is killed: it waits for its reader.
    let wasHurt = (): void => undefined;
    const hurt = new Promise<void>((resolve) => {
      wasHurt = resolve;
    });
    let begun = 0;
    const texts = [1, 2, 3, 4, 5, 6].map(() => {
      const hold = (): Promise<void> => (++begun, hurt);
      return read(mesh, 240, hold);
    });
    await Promise.race([Promise.all(texts), until("all have begun", () => begun === texts.length)]);
    await killTeller(mesh);
    wasHurt();
    await sleep(300);
    await killTeller(mesh);
    const moved = await Promise.all(texts);
    assert.ok(moved.some((times) => times > 0));
  });

  it("survive their broker and their worker at once", async () => {
    const mesh = await live.client();
    await ready(mesh);
    const text = mesh.generate("Once", { maxTokens: 200, timeoutMs: PATIENCE_MS });
    const tokens = [...((await text.next()).value?.tokens ?? [])];
    await Promise.all([broker, ...workers.values()].map((each) => end(each, "SIGKILL")));
    broker = live.broker("--metrics-port", "off");
    workers.clear();
    work("one");
    await rest(text, tokens);
    assert.deepEqual(counted(200), tokens);
    assert.equal(1, (await text.final).usage.moved);
  });

  it("lose no token with connections that are reset all the time", async () => {
    await using proxy = await Proxy.to(live.endpoint);
    const mesh = await live.client(proxy.endpoint);
    await ready(mesh);
    const texts = [1, 2, 3, 4].map(() => read(mesh, 300));
    for (let reset = 0; reset < 25; reset++) {
      await sleep(20 + 5 * (reset % 7));
      await proxy.reset();
    }
    await Promise.all(texts);
    await mesh.close();
  });
});

/** Read a text to its end; return how often it moved. */
async function read(mesh: Mesh, count: number, hold?: () => Promise<void>): Promise<number> {
  const text = mesh.generate("Once", { maxTokens: count, timeoutMs: PATIENCE_MS });
  const tokens: number[] = [];
  if (hold !== undefined) {
    tokens.push(...((await text.next()).value?.tokens ?? []));
    await hold();
  }
  await rest(text, tokens);
  assert.deepEqual(counted(count), tokens);
  const { finishReason, usage } = await text.final;
  assert.deepEqual(["length", count], [finishReason, usage.completion]);
  return usage.moved ?? 0;
}

async function rest(text: Generation, tokens: number[]): Promise<void> {
  for await (const chunk of text) {
    assert.equal(chunk.text, chunk.tokens.map((token) => `${token} `).join(""));
    tokens.push(...chunk.tokens);
  }
}

function counted(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}
