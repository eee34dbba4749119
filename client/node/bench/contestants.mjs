/**
 * How a program in Node makes one call of each contestant; every one is written as fast as its library allows.
 *
 * Each function takes what `load.mjs` was asked and returns `call`, which makes one call and checks what came back, and
 * `close`.
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** 1 KB. */
const PAYLOAD = new Uint8Array(1024).map((_, index) => index % 256);

const CALL_TIMEOUT_MS = 30_000;

/** One client of the mesh for all callers; `client` is the folder that it was compiled into. */
async function mesh({ client, address }) {
  const connected = await connectMesh(client, address);
  return {
    call: async () => {
      same(await connected.call("echo", PAYLOAD, { timeoutMs: CALL_TIMEOUT_MS }));
    },
    close: () => connected.close(),
  };
}

/** The same client, asking for the vector of one text after the other; `texts` is a JSON file of them. */
async function embed({ client, address, texts }) {
  const connected = await connectMesh(client, address);
  const asked = JSON.parse(readFileSync(texts, "utf8"));
  let next = 0;
  return {
    call: async () => {
      const text = asked[next++ % asked.length];
      const { length } = await connected.embed(text, { lane: "interactive", cache: false, timeoutMs: CALL_TIMEOUT_MS });
      assert.equal(length, 1);
    },
    close: () => connected.close(),
  };
}

/** One connection of nats.js for all callers; its requests share one inbox, as they do by default. */
async function nats({ peers, address, subject }) {
  const connection = await requireFrom(peers)("@nats-io/transport-node").connect({ servers: address });
  return {
    call: async () => {
      same((await connection.request(subject, PAYLOAD, { timeout: CALL_TIMEOUT_MS })).data);
    },
    close: () => connection.close(),
  };
}

/** One thread of piscina that is warm, and takes as many tasks at once as there are callers. */
async function piscina({ peers }) {
  const { Piscina } = requireFrom(peers)("piscina");
  const filename = join(import.meta.dirname, "echo.mjs");
  const pool = new Piscina({ filename, minThreads: 1, maxThreads: 1, concurrentTasksPerWorker: 64 });
  return {
    call: async () => {
      same(await pool.run(PAYLOAD));
    },
    close: () => pool.destroy(),
  };
}

const ECHO = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())";

/** A Python for each call; `address` is the interpreter. */
async function python({ address }) {
  const output = (child) =>
    new Promise((resolve, reject) => {
      const pieces = [];
      child.stdout.on("data", (piece) => pieces.push(piece));
      child.on("error", reject);
      child.on("close", () => {
        resolve(Buffer.concat(pieces));
      });
    });
  return {
    call: async () => {
      const child = spawn(address, ["-S", "-E", "-c", ECHO], { stdio: ["pipe", "pipe", "inherit"] });
      child.stdin.end(PAYLOAD);
      same(await output(child));
    },
    close: async () => undefined,
  };
}

async function connectMesh(client, endpoint) {
  const { connect } = await import(pathToFileURL(join(client, "index.js")).href);
  return connect({ endpoint });
}

/** Packages are those of the folder that the benchmark installs its peers into. */
function requireFrom(folder) {
  return createRequire(join(folder, "package.json"));
}

/** Look at both ends of an answer: comparing all of it each time would be a part of what is measured. */
function same(answer) {
  assert.ok(answer.length === PAYLOAD.length && answer[1] === PAYLOAD[1] && answer.at(-1) === PAYLOAD.at(-1));
}

export const CONTESTANTS = { mesh, embed, nats, piscina, python };
