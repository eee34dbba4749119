/**
 * A member of the queue group that answers what nats.js asks: `node responder.mjs PEERS URL SUBJECT`. It is to nats.js
 * what a worker of the mesh is to the client.
 */

import { createRequire } from "node:module";
import { join } from "node:path";
import process from "node:process";

const [peers, servers, subject] = process.argv.slice(2);
const { connect } = createRequire(join(peers, "package.json"))("@nats-io/transport-node");
const connection = await connect({ servers });
connection.subscribe(subject, {
  queue: "workers",
  callback: (error, message) => {
    if (error) {
      throw error;
    }
    message.respond(message.data);
  },
});
await connection.closed();
