import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { promisify } from "node:util";

const HERE = pathToFileURL(join(import.meta.dirname, "/")).href;

describe("a subscriber that throws", { timeout: 60_000 }, () => {
  it("harms neither a request nor other subscribers; Node raises what it threw as for all channels", async () => {
    // In a process of its own, since an uncaught exception of this one would count as the failure of a test.
    const program = `
      import { subscribe } from "node:diagnostics_channel";
      import { CALL_CHANNELS } from "${HERE}../../src/index.js";
      import { FakeMesh } from "${HERE}../client/fake.js";
      import { answer, Listener } from "${HERE}listener.js";
      const uncaught = [];
      process.on("uncaughtException", (error) => uncaught.push(error.message));
      for (const name of Object.values(CALL_CHANNELS)) {
        subscribe(name, () => { throw new Error(name); });
      }
      const listener = new Listener();
      const fake = new FakeMesh();
      fake.transport.welcome();
      const asked = fake.mesh.call("echo", 1);
      answer(fake, 1, "fine");
      const result = await asked;
      const failed = fake.mesh.call("echo", 2).catch((error) => error.code);
      await fake.mesh.close();
      await new Promise(setImmediate);
      console.log(JSON.stringify({ result, code: await failed, order: listener.order, uncaught }));`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program]);
    assert.deepEqual(
      {
        result: "fine",
        code: "CANCELLED",
        order: ["start echo", "end echo", "start echo", "error echo"],
        uncaught: ["start", "end", "start", "error"].map((name) => `mlx-mesh:call:${name}`),
      },
      JSON.parse(stdout),
    );
  });
});
