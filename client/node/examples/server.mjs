/**
 * Embeddings and text over HTTP, for clients that may leave at any time.
 *
 *     PORT=8080 node examples/server.mjs
 *     curl -d '{"texts": ["hello"]}' localhost:8080/embed
 *     curl -Nd '{"prompt": "Once", "maxTokens": 50}' localhost:8080/generate
 *
 * A client that disconnects ends its work, in the worker too. `/healthz` says that the process lives, `/readyz` that
 * a warm worker serves each of `OPS` (`embed` by default). After SIGTERM or SIGINT no connection is taken, and what is
 * under way comes to its end, within ten seconds.
 */

import { once } from "node:events";
import { createServer } from "node:http";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

import { connect, InvalidRequestError, MeshError, TooLargeError } from "mlx-mesh";

/** @typedef {import("node:http").IncomingMessage} Request */
/** @typedef {import("node:http").ServerResponse} Response */

const BODY_MAX_BYTES = 1024 * 1024;
const DRAIN_MS = 10_000;
const OPS = (process.env.OPS ?? "embed").split(",");

/** Errors whose HTTP status is not 500. @type {Readonly<Record<string, number>>} */
const STATUSES = {
  INVALID_REQUEST: 400,
  TOO_LARGE: 413,
  OVERLOADED: 503,
  NO_WORKER: 503,
  OUT_OF_MEMORY: 503,
  DEADLINE_EXCEEDED: 504,
};

const mesh = await connect({ name: `http:${process.pid}` }); // one for the whole process
/** @type {Set<Response>} */
const underWay = new Set();

/** @type {Readonly<Record<string, (request: Request, response: Response) => Promise<void>>>} */
const ROUTES = {
  "GET /healthz": async (_, response) => answer(response, 200, { live: true }),
  "GET /readyz": readyz,
  "POST /embed": embed,
  "POST /generate": generate,
};

/** @param {Request} request @param {Response} response */
async function embed(request, response) {
  const signal = goneOf(response);
  const { texts } = await jsonOf(request);
  const vectors = await mesh.embed(texts, { lane: "interactive", timeoutMs: 10_000, signal });
  answer(response, 200, { model: vectors.model, vectors }); // Embeddings know how to be JSON.
}

/** @param {Request} request @param {Response} response */
async function generate(request, response) {
  const signal = goneOf(response);
  const { prompt, maxTokens = 100 } = await jsonOf(request);
  const generation = mesh.generate(prompt, { maxTokens, lane: "interactive", signal });
  for await (const { text } of generation) {
    if (!response.headersSent) {
      response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
    }
    // A client that reads slowly lets the worker wait: no more than the stream's window is kept here.
    if (!response.write(text)) {
      await once(response, "drain", { signal });
    }
  }
  response.end();
}

/** @param {Request} _ @param {Response} response */
async function readyz(_, response) {
  await mesh.ready({ ops: OPS, timeoutMs: 500 });
  answer(response, 200, { ready: true });
}

/** Return a signal that aborts if the client leaves before it has its answer. @param {Response} response */
function goneOf(response) {
  const gone = new AbortController();
  response.once("close", () => {
    if (!response.writableFinished) {
      gone.abort(new Error("the HTTP client disconnected"));
    }
  });
  return gone.signal;
}

/** Return the JSON of a request. @param {Request} request @returns {Promise<any>} */
async function jsonOf(request) {
  /** @type {Buffer[]} */
  const chunks = [];
  let size = 0;
  request.on("data", (chunk) => {
    size += chunk.length;
    if (size <= BODY_MAX_BYTES) {
      chunks.push(chunk); // Of what is too long the rest is read all the same, so that its sender gets an answer.
    }
  });
  await once(request, "end");
  if (size > BODY_MAX_BYTES) {
    throw new TooLargeError(`the body has ${size} bytes, allowed are ${BODY_MAX_BYTES}`);
  }
  try {
    return Object(JSON.parse(Buffer.concat(chunks).toString("utf8")));
  } catch (cause) {
    throw new InvalidRequestError("the body is no JSON", { cause });
  }
}

/** @param {Response} response @param {number} status @param {unknown} value */
function answer(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

/** @param {Response} response @param {unknown} error */
function refuse(response, error) {
  if (response.destroyed || response.headersSent) {
    response.destroy(); // Nobody is there, or half of a text is; a connection that breaks off says so.
    return;
  }
  if (!(error instanceof MeshError)) {
    console.error(error);
    answer(response, 500, { error: "INTERNAL" });
    return;
  }
  const { code, message, retryable, retryAfterMs, details } = error;
  if (retryable) {
    response.setHeader("retry-after", Math.ceil(retryAfterMs / 1000));
  }
  answer(response, STATUSES[code] ?? 500, { error: code, message, details });
}

const server = createServer((request, response) => {
  underWay.add(response);
  response.once("close", () => underWay.delete(response));
  const route = ROUTES[`${request.method} ${request.url}`];
  if (route === undefined) {
    answer(response, 404, { error: "NOT_FOUND" });
  } else {
    route(request, response).catch((error) => refuse(response, error));
  }
});

async function leave() {
  server.close(); // No new connections.
  for (const end = performance.now() + DRAIN_MS; underWay.size > 0 && performance.now() < end;) {
    await sleep(20);
  }
  server.closeAllConnections(); // Those that are kept alive, and those on which nothing was asked yet.
  await mesh.close(); // Ends what is left; then nothing keeps the process alive.
}

for (const name of ["SIGTERM", "SIGINT"]) {
  process.once(name, () => void leave());
}

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
  const address = server.address();
  console.log(`listening on http://127.0.0.1:${typeof address === "object" ? address?.port : address}`);
});
