/** Which messages travel together. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { bundles, type Mail, opened } from "../../src/wire/bundle.js";
import { decodeHeader } from "../../src/wire/header.js";
import type { Message } from "../../src/wire/messages.js";
import { plain } from "./vectors.js";

function cancel(id: number): Mail {
  return { message: { type: "Cancel", id }, frames: [] };
}

function credit(id: number, ...frames: Uint8Array[]): Mail {
  return { message: { type: "Credit", id, chunks: 1 }, frames };
}

function decoded(header: Uint8Array | undefined): Message {
  const message = header && decodeHeader(header);
  assert.ok(message);
  return message;
}

/** Return the mail that a receiver finds in what was sent, by the ZeroMQ message it came in. */
function received(sent: Iterable<Uint8Array[]>): Mail[][] {
  return Array.from(sent, ([header, ...frames]) => {
    const message = decoded(header);
    if (message.type !== "Bundle") {
      return [{ message, frames }];
    }
    return opened(message, frames).map(([head, ...rest]): Mail => ({ message: decoded(head), frames: rest }));
  });
}

function numbers(mail: Mail[][]): number[][] {
  return mail.map((group) => group.map(({ message }) => ("id" in message ? message.id : 0)));
}

describe("bundles", () => {
  it("keep the order, and what a receiver finds is what was sent", () => {
    const mail = [credit(1, new Uint8Array(3)), cancel(2), credit(3, new Uint8Array(8192))];
    const found = received(bundles(mail));
    assert.deepEqual(plain(found), plain([mail]));
  });

  it("hold at most 32 messages", () => {
    const mail = Array.from({ length: 65 }, (_, i) => cancel(i + 1));
    assert.deepEqual(
      received(bundles(mail)).map((group) => group.length),
      [32, 32, 1],
    );
  });

  it("leave alone what is large, has buffers, an empty body, or is a greeting", () => {
    const ping: Mail = { message: { type: "Ping", nonce: 0 }, frames: [] };
    const [large, many, empty] = [[new Uint8Array(8193)], [new Uint8Array(1), new Uint8Array(1)], [new Uint8Array(0)]];
    const mail = [cancel(1), cancel(2), credit(3, ...large), credit(4, ...many), credit(5, ...empty), ping, cancel(6)];
    assert.deepEqual(numbers(received(bundles(mail))), [[1, 2], [3], [4], [5], [0], [6]]);
  });

  it("are none when there is no mail, and no bundle for a single message", () => {
    assert.deepEqual([...bundles([])], []);
    assert.deepEqual(plain(received(bundles([cancel(1)]))), plain([[cancel(1)]]));
    assert.deepEqual(
      [...bundles([cancel(1)])].map((frames) => frames.length),
      [1],
    );
  });
});
