/** Where a client connects to, and which endpoints there can be. */

import { Buffer } from "node:buffer";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

import { InvalidRequestError } from "./errors.js";

export const IPC = "ipc://";

/** `sun_path` holds 104 bytes on macOS and 108 on Linux, with the closing zero. */
const IPC_PATH_MAX_BYTES = 103;
const PORT_MAX = 65_535;
const ALLOWED = "ipc://PATH or tcp://HOST:PORT";

/** A name, an IPv4 address, or an IPv6 address in brackets, with a zone if need be. */
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])$/;

/** Return where clients connect: `$MLX_MESH_ENDPOINT`, or the frontend of the run directory. */
export function clientEndpoint(env: NodeJS.ProcessEnv = process.env): string {
  const given = env.MLX_MESH_ENDPOINT ?? "";
  return given === "" ? `${IPC}${join(runDir(env), "frontend.sock")}` : given;
}

function runDir(env: NodeJS.ProcessEnv): string {
  const given = env.MLX_MESH_RUN_DIR ?? "";
  return given === "" ? join(homedir(), ".mlx-mesh", "run") : resolve(fromHome(given));
}

/** Return a path whose leading `~` is the home directory. */
export function fromHome(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path;
}

/**
 * Return an endpoint if a client can connect to it. libzmq takes more endpoints than those, and then never connects.
 *
 * @throws {@link InvalidRequestError} saying what is allowed.
 */
export function checkEndpoint(endpoint: string): string {
  const fault = endpointFault(endpoint);
  if (fault !== undefined) {
    throw new InvalidRequestError(`endpoint ${fault}`, { details: { field: "endpoint" } });
  }
  return endpoint;
}

function endpointFault(endpoint: unknown): string | undefined {
  if (typeof endpoint !== "string") {
    return `is a ${typeof endpoint}; allowed: ${ALLOWED}`;
  }
  const shown = JSON.stringify(endpoint.slice(0, 200));
  const [, scheme, rest] = /^(ipc|tcp):\/\/([^\0]+)$/s.exec(endpoint) ?? [];
  if (!rest?.isWellFormed()) {
    return `${shown} is no endpoint; allowed: ${ALLOWED}`;
  }
  if (scheme === "ipc") {
    const size = Buffer.byteLength(rest);
    return size > IPC_PATH_MAX_BYTES
      ? `${shown} has a path of ${size} bytes; allowed: at most ${IPC_PATH_MAX_BYTES}`
      : undefined;
  }
  const colon = rest.lastIndexOf(":");
  const port = rest.slice(colon + 1);
  if (colon < 0 || !/^[0-9]{1,9}$/.test(port) || Number(port) < 1 || Number(port) > PORT_MAX) {
    return `${shown} has no port from 1 to ${PORT_MAX}; allowed: ${ALLOWED}`;
  }
  return HOST.test(rest.slice(0, colon)) ? undefined : `${shown} has no host; allowed: ${ALLOWED}`;
}
