import assert from "node:assert/strict";
import { chmodSync, copyFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { connect, InvalidRequestError, UnauthorizedError } from "../../src/index.js";
import { LiveMesh, PATIENCE_MS } from "./mesh.js";

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}

describe("an endpoint with keys", { timeout: 6 * PATIENCE_MS }, () => {
  let live: LiveMesh;
  let endpoint: string;
  let keys: string;

  before(async () => {
    live = new LiveMesh();
    keys = join(live.dir, "keys");
    await live.command("mlx-mesh", "keys", "init");
    await live.command("mlx-mesh", "keys", "add-client", "node");
    await live.command("mlx-mesh", "keys", "add-client", "gone");
    await live.command("mlx-mesh", "keys", "add-worker", "other");
    copyFileSync(join(keys, "gone.key"), join(live.dir, "gone.key"));
    await live.command("mlx-mesh", "keys", "revoke", "gone");
    endpoint = `tcp://127.0.0.1:${await freePort()}`;
    live.broker("--listen", endpoint, "--keys", "always");
    live.worker("echo", "echo");
    await live.ready("echo");
  });

  after(async () => {
    await live[Symbol.asyncDispose]();
  });

  it("serves a client with its key", async () => {
    const mesh = await live.client(endpoint, join(keys, "node.key"));
    assert.equal("hello", await mesh.call("echo", "hello", { timeoutMs: PATIENCE_MS }));
  });

  it("refuses a client without one, and the error says what to do", async () => {
    const mesh = await live.client(endpoint);
    await assert.rejects(mesh.call("echo", 1, { timeoutMs: PATIENCE_MS }), (error) => {
      assert.ok(error instanceof UnauthorizedError, String(error));
      assert.match(error.message, /MLX_MESH_KEYS/);
      return true;
    });
  });

  it("refuses a key that was revoked", async () => {
    const mesh = await live.client(endpoint, join(live.dir, "gone.key"));
    await assert.rejects(mesh.call("echo", 1, { timeoutMs: PATIENCE_MS }), (error) => {
      assert.ok(error instanceof UnauthorizedError, String(error));
      assert.match(error.message, /'gone'/);
      return true;
    });
  });

  it("is not connected to with a file that cannot be one, and no error quotes it", async () => {
    const secret = "s".repeat(40);
    const open = join(live.dir, "open.key");
    writeFileSync(open, "{}", { mode: 0o644 });
    chmodSync(open, 0o644);
    const broken = join(live.dir, "broken.key");
    writeFileSync(broken, `{"secret": "${secret}`, { mode: 0o600 });
    const link = join(live.dir, "link.key");
    symlinkSync(join(keys, "node.key"), link);
    const refused: readonly (readonly [path: string, why: RegExp])[] = [
      [open, /chmod 600/],
      [broken, /JSON/],
      [link, /link/],
      [live.dir, /not a regular file/],
      [join(keys, "other.key"), /key of a worker/],
    ];
    for (const [path, why] of refused) {
      await assert.rejects(connect({ endpoint, keys: path }), (error) => {
        assert.ok(error instanceof InvalidRequestError);
        assert.match(error.message, why);
        assert.ok(!error.message.includes(secret));
        return true;
      });
    }
  });
});
