/** The private file of a client's key, as `mlx-mesh keys add-client` makes it. Nothing in here quotes a key. */

import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import type { Stats } from "node:fs";
import { Buffer } from "node:buffer";

import { fromHome, IPC } from "./endpoint.js";
import { InvalidRequestError } from "./errors.js";

/** What a client needs to connect to an endpoint with keys; `server` is the public key of the broker. */
export interface Keys {
  readonly name: string;
  readonly public: string;
  readonly secret: string;
  readonly server: string;
}

/** A file of keys has a few hundred bytes; what is far larger is something else. */
const FILE_MAX_BYTES = 16 * 1024;

const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const Z85 = /^[0-9a-zA-Z.\-:+=^!/*?&<>()[\]{}@%$#]{40}$/;

/**
 * Return the keys to connect with, undefined if there are none.
 *
 * @param given - the path of a file; by default `$MLX_MESH_KEYS`. On an ipc endpoint, where the file system says who
 * may connect, there are no keys.
 * @throws {@link InvalidRequestError} the file cannot be used, or keys were given for an ipc endpoint.
 */
export function clientKeys(
  endpoint: string,
  given: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
): Keys | undefined {
  if (given !== undefined && (typeof given !== "string" || given === "" || given.includes("\0"))) {
    throw refusal("must be the path of a file");
  }
  if (endpoint.startsWith(IPC)) {
    if (given !== undefined) {
      throw refusal(`are for tcp endpoints; ${endpoint} has none, leave them out`);
    }
    return undefined;
  }
  const path = given ?? env.MLX_MESH_KEYS ?? "";
  return path === "" ? undefined : readKeys(fromHome(path));
}

function readKeys(path: string): Keys {
  let told: unknown;
  try {
    told = JSON.parse(readPrivate(path));
  } catch (error) {
    if (error instanceof InvalidRequestError) {
      throw error;
    }
    // No cause: the reason would quote the text.
    throw refusal(`: ${path} is no file of keys, which is a JSON object`);
  }
  const fields = typeof told === "object" && told !== null ? (told as Readonly<Record<string, unknown>>) : {};
  const { role, name } = fields;
  if (role === "worker" || role === "operator" || role === "broker") {
    throw refusal(`: ${path} is the key of a ${role}; make one by: mlx-mesh keys add-client NAME`);
  }
  if (role !== "client" || typeof name !== "string" || !NAME.test(name)) {
    throw refusal(`: ${path} is no file of keys; make one by: mlx-mesh keys add-client NAME`);
  }
  return {
    name,
    public: keyOf(path, fields, "public"),
    secret: keyOf(path, fields, "secret"),
    server: keyOf(path, fields, "server"),
  };
}

function keyOf(path: string, fields: Readonly<Record<string, unknown>>, field: string): string {
  const key = fields[field];
  if (typeof key !== "string" || !Z85.test(key)) {
    throw refusal(`: ${path}: ${field} is no key of 40 characters in Z85`);
  }
  return key;
}

function readPrivate(path: string): string {
  let descriptor: number;
  try {
    // Without O_NONBLOCK a FIFO of that name would hold up whoever reads it. Windows has none of these flags.
    const careful = process.platform === "win32" ? 0 : constants.O_NOFOLLOW | constants.O_NONBLOCK;
    descriptor = openSync(path, constants.O_RDONLY | careful);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "";
    const why = code === "ELOOP" ? "it is a link, which is not followed" : code;
    throw new InvalidRequestError(`keys: ${path} cannot be read: ${why}`, { details: { field: "keys" }, cause });
  }
  try {
    const found = fstatSync(descriptor);
    if (!found.isFile()) {
      throw refusal(`: ${path} is not a regular file`);
    }
    checkOwner(path, found);
    const bytes = Buffer.alloc(FILE_MAX_BYTES + 1);
    const size = readSync(descriptor, bytes, 0, bytes.length, 0);
    if (size > FILE_MAX_BYTES) {
      throw refusal(`: ${path} has over ${FILE_MAX_BYTES} bytes; it is no file of keys`);
    }
    return bytes.toString("utf8", 0, size);
  } finally {
    closeSync(descriptor);
  }
}

function checkOwner(path: string, found: Stats): void {
  const own = process.geteuid?.();
  if (own === undefined) {
    return;
  }
  if (found.uid !== own) {
    throw refusal(`: ${path} belongs to user ${found.uid}, not to you (${own}); run: chown ${own} ${path}`);
  }
  if (found.mode & 0o077) {
    const mode = (found.mode & 0o777).toString(8).padStart(4, "0");
    throw refusal(`: ${path} has mode ${mode}, others may use it; run: chmod 600 ${path}`);
  }
}

function refusal(what: string): InvalidRequestError {
  return new InvalidRequestError(`keys${what.startsWith(":") ? "" : " "}${what}`, { details: { field: "keys" } });
}
