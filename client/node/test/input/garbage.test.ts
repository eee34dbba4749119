/** A broker that answers what is no message: the connection is made anew, and nobody's call is harmed. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { connect, ProtocolError } from "../../src/index.js";
import type { MeshEvent } from "../../src/index.js";
import { encodeHeader } from "../../src/wire/header.js";
import { Flag } from "../../src/wire/messages.js";
import { echoed, final, Impostor, said } from "./impostor.js";

const PATIENCE_MS = 60_000;

const FINAL = encodeHeader({ type: "Final", id: 1, attempts: 1, queueUs: 0, serviceUs: 0, flags: 0, chunks: 0 });
const BUNDLE = encodeHeader({ type: "Bundle", sizes: [FINAL.length, 1] });

/** Frames that are no message of the protocol. */
const GARBAGE: readonly (readonly [what: string, frames: readonly Uint8Array[]])[] = [
  ["text of another protocol", [Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")]],
  ["an empty frame", [Buffer.alloc(0)]],
  ["a byte that msgpack never uses", [Uint8Array.of(0xc1)]],
  ["zeros", [new Uint8Array(1000)]],
  ["a header that ends too early", [FINAL.subarray(0, 3)]],
  ["a header with bytes behind its end", [Buffer.concat([FINAL, Uint8Array.of(1)])]],
  ["a FINAL of too few fields", [Uint8Array.of(0x92, 5, 1)]],
  ["a FINAL whose id is a string", [Uint8Array.of(0x97, 5, 0xa1, 0x61, 1, 1, 1, 1, 1)]],
  ["a header of over 4 KiB", [Buffer.concat([Uint8Array.of(0x92, 5, 0xc5, 0x10, 0x00), new Uint8Array(4096)])]],
  ["an array that claims billions of fields", [Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff)]],
  ["more frames than there may be", [FINAL, ...Array.from({ length: 8 }, () => Uint8Array.of(1))]],
  ["a BUNDLE whose sizes lie", [BUNDLE, FINAL]],
  ["a BUNDLE without its frame", [BUNDLE]],
  [
    "a BUNDLE in a BUNDLE",
    [encodeHeader({ type: "Bundle", sizes: [BUNDLE.length, 1] }), Buffer.concat([BUNDLE, FINAL.subarray(0, 1)])],
  ],
];

describe("a broker that answers garbage", { timeout: 2 * PATIENCE_MS }, () => {
  for (const [what, frames] of GARBAGE) {
    it(`is connected to anew, and all calls are answered: ${what}`, async () => {
      await using impostor = await Impostor.start((request, body) => {
        // Others wait while one is answered like this, on the first connection only.
        return impostor.greetings > 1 ? echoed(request, body) : request.op === "odd" ? frames : undefined;
      });
      await using mesh = await connect({ endpoint: impostor.endpoint });
      const events = mesh.events();
      const asked = ["one", "odd", "two"].map((op) => mesh.call(op, op, { timeoutMs: PATIENCE_MS }));
      assert.deepEqual(["one", "odd", "two"], await Promise.all(asked));
      assert.equal(2, impostor.greetings);
      const again = impostor.requests.slice(-3);
      assert.deepEqual(
        [1, 2, 3],
        again.map(({ requestId }) => requestId),
      );
      assert.ok(again.every(({ flags }) => flags & Flag.RESEND));
      await mesh.close();
      const told = await eventsOf(events);
      assert.deepEqual(
        ["connected", "reconnecting", "connected", "closed"],
        told.map(({ type }) => type),
      );
      assert.ok(told.some((event) => event.type === "reconnecting" && event.reason === "garbage"));
    });
  }

  it("costs only the caller whose result it is, if the message is one", async () => {
    await using impostor = await Impostor.start((request, body) =>
      request.op === "odd" ? final(request.requestId, [Uint8Array.of(0xc1)]) : echoed(request, body),
    );
    await using mesh = await connect({ endpoint: impostor.endpoint });
    const [one, odd, two] = await Promise.allSettled(
      ["one", "odd", "two"].map((op) => mesh.call(op, op, { timeoutMs: PATIENCE_MS })),
    );
    assert.deepEqual(
      [one, two].map((each) => each?.status === "fulfilled" && each.value),
      ["one", "two"],
    );
    assert.ok(odd?.status === "rejected" && odd.reason instanceof ProtocolError);
    assert.equal(1, impostor.greetings);
  });

  it("costs nothing where it answers what nobody asked, twice, or of a kind that is not known", async () => {
    const bystanders: (readonly Uint8Array[])[] = [
      said(9999, "nobody's"),
      [encodeHeader({ type: "Chunk", id: 1, seq: 0 }), Uint8Array.of(1)],
      [Uint8Array.of(0x92, 0x7f, 0x01)], // A type code of a later version.
      [encodeHeader({ type: "Quiet", on: true })],
      [encodeHeader({ type: "Again", id: 9999, chunks: 5 })],
    ];
    await using impostor = await Impostor.start((request, body) =>
      request.op === "unanswered" ? bystanders.shift() : echoed(request, body),
    );
    await using mesh = await connect({ endpoint: impostor.endpoint });
    // On a machine that is held up, a time may be over before a call is on its way.
    while (bystanders.length > 0) {
      const odd = bystanders.map((_, number) => mesh.call("unanswered", number, { timeoutMs: 300 }));
      const ended = await Promise.allSettled(odd);
      assert.ok(ended.every(({ status }) => status === "rejected"));
    }
    assert.equal("fine", await mesh.call("echo", "fine", { timeoutMs: PATIENCE_MS }));
    assert.equal(1, impostor.greetings);
  });

  it("and never anything else is told of as such, and served once a broker is in its place", async () => {
    let broken = true;
    await using impostor = await Impostor.start((request, body) =>
      broken ? [Uint8Array.of(0xc1)] : echoed(request, body),
    );
    await using mesh = await connect({ endpoint: impostor.endpoint });
    const asked = mesh.call("echo", "patient", { timeoutMs: PATIENCE_MS });
    const events = mesh.events();
    for (let seen = 0; seen < 3;) {
      const { value } = await events.next();
      seen += value?.type === "reconnecting" ? 1 : 0;
    }
    broken = false;
    assert.equal("patient", await asked);
    assert.ok(impostor.greetings > 3);
  });
});

async function eventsOf(events: AsyncIterable<MeshEvent>): Promise<MeshEvent[]> {
  const told: MeshEvent[] = [];
  for await (const event of events) {
    told.push(event);
  }
  return told;
}
