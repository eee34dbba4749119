/**
 * Trials: a mesh is hurt for a while, and every answer of the clients is checked. Each takes `TRIAL_S`
 * seconds; by default so few that all of them are over soon.
 */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import type { Mesh } from "../../src/index.js";
import { Load } from "./load.js";
import { PATIENCE_MS, until } from "./mesh.js";
import { Proxy } from "./proxy.js";
import { chanceOf } from "../chance.js";
import { Stage } from "./stage.js";

const TRIAL_MS = Number(process.env.TRIAL_S ?? "0.8") * 1000;

/** Of calls: on a busy machine a process may take seconds until it is there again. */
const TIMEOUT_MS = 20_000;

/** Errors that a trial may cost a caller, each with its reason. All else is a failure. */
const ALLOWED = [
  "hasty DEADLINE_EXCEEDED", // Its deadline is too short on purpose.
  "once WORKER_LOST", // It may have begun in what was lost, and must not be run again.
  "once DEADLINE_EXCEEDED", // A broker that is new does not know whether it has begun, and waits for whoever holds it.
];

/** Fewer would show nothing. */
const CALLS_MIN = 20;

/** Hurts the mesh once, and returns whether it did. */
type Fault = () => Promise<boolean> | boolean;

describe("trials", { timeout: 20 * (PATIENCE_MS + TRIAL_MS) }, () => {
  const stage = new Stage();
  const chance = chanceOf(7);
  let proxy: Proxy;

  before(async () => {
    await stage.start();
    proxy = await Proxy.to(stage.live.endpoint);
  });

  after(async () => {
    await proxy[Symbol.asyncDispose]();
    await stage[Symbol.asyncDispose]();
  });

  /** Hurt the mesh again and again under load, and judge every call. */
  async function trial(context: TestContext, endpoint: string, pauseMs: number, fault: Fault): Promise<void> {
    await stage.whole();
    const mesh = await stage.live.client(endpoint);
    await mesh.ready({ ops: ["echo", "tell"], timeoutMs: PATIENCE_MS });
    const load = new Load(mesh, TIMEOUT_MS);
    const over = performance.now() + TRIAL_MS;
    let faults = 0;
    while (faults === 0 || performance.now() < over) {
      await sleep(pauseMs * (0.5 + chance()));
      faults += (await fault()) ? 1 : 0;
      assert.ok(performance.now() < over + PATIENCE_MS, "nothing could be done to the mesh");
    }
    await proxy.clear();
    await until(`${CALLS_MIN} calls`, () => load.tally.size >= CALLS_MIN);
    const tally = await load.stop();
    const errors = [...tally.errors].map(([words, { count }]) => `${count} ${words}`);
    context.diagnostic(`${tally.size} calls, hurt ${faults} times; ${errors.join(", ") || "no error"}`);
    assert.deepEqual([], tally.flaws);
    assert.deepEqual([], tally.beyond(ALLOWED));
    assert.deepEqual([], ranTwice());
    await healed(mesh);
    await mesh.close();
  }

  /** What must run at most once notes what it begins. */
  function ranTwice(): string[] {
    const path = join(stage.live.dir, "ran");
    const begun = existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
    return begun.filter((nonce, at) => begun.indexOf(nonce) !== at);
  }

  async function healed(mesh: Mesh): Promise<void> {
    assert.equal("well", await mesh.call("echo", "well", { waitForReady: true, timeoutMs: PATIENCE_MS }));
  }

  it("SIGKILL of workers", async (context) => {
    await trial(context, stage.live.endpoint, 300, () => stage.killWorker(chance));
  });

  it("SIGSTOP of workers, for a moment or until they are lost", async (context) => {
    const pauses = [100, 300, 1000, 2500];
    let turn = 0;
    await trial(context, stage.live.endpoint, 300, async () => {
      await stage.freeze(stage.anyWorker(chance), pauses[turn++ % pauses.length] ?? 0);
      return true;
    });
  });

  it("SIGKILL of the broker, together with a worker each second time", async (context) => {
    let turn = 0;
    const fault: Fault = async () => {
      if (turn++ % 2 === 1) {
        await stage.killWorker(chance);
      }
      return stage.killBroker();
    };
    await trial(context, stage.live.endpoint, 900, fault);
  });

  it("SIGSTOP of the broker, for a moment or for longer than its clients' patience", async (context) => {
    const pauses = [100, 2000, 500];
    let turn = 0;
    await trial(context, stage.live.endpoint, 400, async () => {
      await stage.freeze("broker", pauses[turn++ % pauses.length] ?? 0);
      return true;
    });
  });

  it("a storm of resets", async (context) => {
    await trial(context, proxy.endpoint, 60, async () => {
      await proxy.reset();
      return true;
    });
  });

  it("connections that are open at both ends and carry nothing", async (context) => {
    await trial(context, proxy.endpoint, 1000, async () => {
      await proxy.halfOpen();
      return true;
    });
  });

  it("connections that are cut within a message, slow ones, and ones in small pieces", async (context) => {
    await trial(context, proxy.endpoint, 200, async () => {
      await proxy.set("cut_after_bytes", Math.round(30_000 + 200_000 * chance()));
      await proxy.set("slice_bytes", chance() < 0.5 ? 0 : 700);
      await proxy.set("latency_s", chance() < 0.5 ? 0 : 0.05);
      return true;
    });
  });

  it("connections that are accepted and never served", async (context) => {
    await trial(context, proxy.endpoint, 300, async () => {
      await proxy.stall(true);
      await proxy.reset();
      await sleep(300);
      await proxy.stall(false);
      return true;
    });
  });
});
