/** From what a caller says to a client that is connecting. */

import { randomBytes } from "node:crypto";
import { basename } from "node:path";

import { checkEndpoint, clientEndpoint } from "../endpoint.js";
import { clientKeys } from "../keys.js";
import type { ConnectOptions } from "../options.js";
import { loadZeromq } from "../transport/load.js";
import { ZeromqTransport } from "../transport/zeromq.js";
import { NAME_MAX_CHARS, SESSION_BYTES } from "../wire/limits.js";
import { checkFields, checkText } from "./checks.js";
import { EventHub } from "./events.js";
import { Link } from "./link.js";
import { Mesh } from "./mesh.js";

const FIELDS: ReadonlySet<string> = new Set(["endpoint", "keys", "name"]);

/**
 * Return a client. It does not wait for a broker: calls do, each within its own time, so that both may be started in
 * any order.
 *
 * @throws {@link InvalidRequestError} an option is not usable.
 * @throws {@link InternalError} ZeroMQ cannot be loaded on this platform; the message says what helps.
 */
export async function connect(options: ConnectOptions = {}): Promise<Mesh> {
  checkFields(options, FIELDS);
  const endpoint = checkEndpoint(options.endpoint ?? clientEndpoint());
  const keys = clientKeys(endpoint, options.keys);
  const name = checkText("name", options.name ?? ownName(), 1, NAME_MAX_CHARS);
  const zeromq = await loadZeromq();
  const hub = new EventHub();
  const link: Link = new Link({
    key: randomBytes(SESSION_BYTES),
    name,
    endpoint,
    random: Math.random,
    dial: (handlers, known) => new ZeromqTransport(zeromq, { endpoint, keys, known }, handlers),
    onEvent: (event) => {
      hub.emit(event);
    },
  });
  return new Mesh(link, hub);
}

function ownName(): string {
  return `${basename(process.argv[1] ?? "node")
    .toWellFormed()
    .slice(0, 40)
    .toWellFormed()}:${process.pid}`;
}
