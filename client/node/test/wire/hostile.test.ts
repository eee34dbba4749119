/** Bytes that nobody vouches for: decoding gives a value or a DecodeError, soon and without making much room. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { encode } from "@msgpack/msgpack";

import { DecodeError } from "../../src/errors.js";
import { packBody, unpackBody } from "../../src/wire/body.js";
import { decodeHeader, encodeHeader } from "../../src/wire/header.js";
import type { Message } from "../../src/wire/messages.js";
import { chanceOf } from "../chance.js";
import { bytes, plain } from "./vectors.js";

function anyValue(random: () => number, depth: number): unknown {
  const makers: (() => unknown)[] = [
    () => null,
    () => random() < 0.5,
    () => Math.trunc((random() - 0.5) * 2 ** Math.trunc(random() * 54)) + 0, // the library loses the sign of -0
    () => random() * 10,
    () => "aé語😀".repeat(random() * 20).slice(0, 3) + "x".repeat(random() * 60),
    () => Uint8Array.from({ length: random() * 300 }, () => random() * 256),
    () => Array.from({ length: random() * 20 }, () => anyValue(random, depth - 1)),
    () => Object.fromEntries(Array.from({ length: random() * 20 }, (_, i) => [`k${i}`, anyValue(random, depth - 1)])),
  ];
  return makers[Math.trunc(random() * (depth ? makers.length : 6))]?.();
}

function decodes(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    assert.ok(error instanceof DecodeError, String(error));
  }
}

const REQUEST: Message = {
  type: "Request",
  requestId: 300,
  op: "embed",
  model: "org/model",
  lane: 1,
  remainingMs: 60_000,
  flags: 0,
  window: 16,
  affinity: new Uint8Array(8),
  traceparent: "",
  seen: 0,
};

describe("a peer that means harm", () => {
  it("gets values written as another implementation does, and read", () => {
    const random = chanceOf(1);
    for (let i = 0; i < 300; i++) {
      const value = anyValue(random, 3);
      const [body] = packBody(value);
      assert.deepEqual(plain(body), plain(encode(value)));
      assert.deepEqual(plain(unpackBody([encode(value)])), plain(value));
    }
  });

  it("cannot cut a header or a body so that anything but a DecodeError comes of it", () => {
    const header = encodeHeader(REQUEST);
    const [body = header] = packBody({
      texts: ["a", "é"],
      n: [1, 2 ** 40, 1.5],
      b: new Uint8Array(3),
      t: [null, true],
    });
    for (let end = 0; end < header.length; end++) {
      assert.throws(() => decodeHeader(header.subarray(0, end)), DecodeError);
    }
    for (let end = 0; end < body.length; end++) {
      assert.throws(() => unpackBody([body.subarray(0, end)]), DecodeError);
    }
  });

  it("cannot change bytes so that anything but a DecodeError comes of it", () => {
    const random = chanceOf(2);
    const header = encodeHeader(REQUEST);
    const frames = packBody({ v: new Float32Array(2), texts: ["a", "é"], more: { n: [1, -(2 ** 40)] } });
    for (let i = 0; i < 5000; i++) {
      const [changed, body = header] = [header, frames[0]].map((frame = header) => Uint8Array.from(frame));
      for (const each of [changed ?? header, body]) {
        each[Math.trunc(random() * each.length)] = random() * 256;
        each[Math.trunc(random() * each.length)] = random() * 256;
      }
      decodes(() => decodeHeader(changed ?? header));
      decodes(() => unpackBody([body, ...frames.slice(1)]));
    }
  });

  it("has no room made for what an array or a map only claims", () => {
    for (const claim of ["ddffffffff", "dfffffffff", "dcffff", "deffff"]) {
      const body = bytes(claim.repeat(30) + "00");
      assert.throws(() => unpackBody([body]), { name: "DecodeError", message: /claims \d+ items/ });
    }
    assert.throws(() => unpackBody([bytes("c6ffffffff00")]), DecodeError);
    assert.throws(() => unpackBody([bytes("dbffffffff00")]), DecodeError);
    assert.throws(() => unpackBody([bytes("c9ffffffff01")]), DecodeError);
  });

  it("cannot end the stack with nesting, in a trailing field either", () => {
    const deep = new Uint8Array(2 ** 20).fill(0x91);
    assert.throws(() => unpackBody([deep]), { message: /nested/ });
    const header = new Uint8Array([0x93, 0x07, 0x01, ...new Uint8Array(4000).fill(0x91), 0x00]);
    assert.deepEqual(decodeHeader(header), { type: "Cancel", id: 1 });
  });

  it("cannot pass over a string that is not UTF-8, short or long", () => {
    for (const bad of ["ff", "c0af", "eda080", "f4908080", "e282"]) {
      for (const padding of [0, 20, 200]) {
        const text = "61".repeat(padding) + bad;
        const length = (text.length / 2).toString(16).padStart(4, "0");
        assert.throws(() => unpackBody([bytes(`da${length}${text}`)]), { message: /UTF-8/ });
      }
    }
  });
});

describe("encodeHeader", () => {
  it("refuses values that the protocol cannot carry, and names the field", () => {
    for (const [fields, place] of [
      [{ remainingMs: 1.5 }, "Request.remaining_ms"],
      [{ remainingMs: -1 }, "Request.remaining_ms"],
      [{ lane: NaN }, "Request.lane"],
      [{ op: "\ud800" }, "Request.op"],
      [{ op: 7 as unknown as string }, "Request.op"],
      [{ model: "é".repeat(201) }, "Request.model"],
      [{ affinity: new Uint8Array(65) }, "Request.affinity"],
      [{ affinity: undefined as unknown as Uint8Array }, "Request.affinity"],
    ] as const) {
      const message = { ...REQUEST, ...fields };
      assert.throws(() => encodeHeader(message), { code: "INVALID_REQUEST", details: { field: place } });
    }
  });

  it("counts characters, not halves of them", () => {
    const message = { ...REQUEST, model: "😀".repeat(200) };
    assert.deepEqual(plain(decodeHeader(encodeHeader(message))), plain(message));
    assert.throws(() => encodeHeader({ ...REQUEST, model: "😀".repeat(201) }), { code: "INVALID_REQUEST" });
  });

  it("refuses a type that is not known, and a header that is too long", () => {
    assert.throws(() => encodeHeader({ type: "toString" } as unknown as Message), { code: "INVALID_REQUEST" });
    const limits = Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`${"k".repeat(80)}${i}`, 1]));
    const welcome: Message = { type: "Welcome", major: 1, minor: 0, epoch: "e", limits, intervals: {} };
    assert.throws(() => encodeHeader(welcome), { code: "PROTOCOL_ERROR", message: /4096/ });
  });
});
