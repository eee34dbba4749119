/** The conformance vectors, run against the codec in both directions. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { DecodeError } from "../../src/errors.js";
import { packBody, unpackBody } from "../../src/wire/body.js";
import { type Mail, bundles, opened } from "../../src/wire/bundle.js";
import { decodeHeader, encodeHeader } from "../../src/wire/header.js";
import type { Message } from "../../src/wire/messages.js";
import { unwrap, wrap } from "../../src/wire/wrapping.js";
import * as read from "./vectors.js";

function refuses(decode: () => unknown, { error, about }: { readonly error?: string; readonly about?: string }): void {
  assert.throws(decode, (thrown) => {
    assert.ok(thrown instanceof DecodeError);
    assert.equal(thrown.constructor, DecodeError);
    assert.equal(thrown.code, error);
    assert.ok(thrown.message.includes(about ?? ""), `'${thrown.message}' does not tell '${String(about)}'`);
    return true;
  });
}

describe("headers", () => {
  for (const example of read.vectors("headers") as readonly read.HeaderCase[]) {
    it(example.name, () => {
      const data = read.bytes(example.hex);
      if (example.error !== undefined) {
        refuses(() => decodeHeader(data), example);
        return;
      }
      const message = decodeHeader(data);
      if (!example.decoded) {
        assert.equal(message, undefined);
        return;
      }
      const { type, fields } = example.decoded;
      const named = Object.entries(fields).map(([name, value]) => [read.camelCase(name), read.fromJson(value)]);
      const expected = { type, ...(Object.fromEntries(named) as object) } as unknown as Message;
      assert.deepEqual(read.plain(message), read.plain(expected));
      const again = encodeHeader(expected);
      if (example.canonical) {
        assert.equal(read.hex(again), example.hex);
      }
      assert.deepEqual(read.plain(decodeHeader(again)), read.plain(expected));
    });
  }
});

describe("bodies", () => {
  for (const example of read.vectors("bodies") as readonly read.BodyCase[]) {
    it(example.name, () => {
      const frames = read.bodyFrames(example);
      if (example.error !== undefined) {
        refuses(() => unpackBody(frames), example);
        return;
      }
      const expected = read.fromJson(example.decoded);
      assert.deepEqual(read.plain(unpackBody(frames)), read.plain(expected));
      const again = packBody(expected);
      if (example.canonical && !read.hasWholeFloat({ value: example.decoded })) {
        assert.deepEqual(again.map(read.hex), example.hex);
      }
      assert.deepEqual(read.plain(unpackBody(again)), read.plain(expected));
    });
  }
});

describe("bundles", () => {
  for (const example of read.vectors("bundles") as readonly read.BundleCase[]) {
    it(example.name, () => {
      const [header, ...frames] = example.hex.map(read.bytes);
      assert.ok(header);
      const bundle = decodeHeader(header);
      assert.equal(bundle?.type, "Bundle");
      if (example.error !== undefined) {
        refuses(() => opened(bundle, frames), example);
        return;
      }
      const messages = opened(bundle, frames).map((parts) => parts.map(read.hex));
      assert.deepEqual(messages, example.messages);
      const mail = messages.flatMap(([head, ...rest]): Mail[] => {
        try {
          const message = decodeHeader(read.bytes(head ?? ""));
          return message ? [{ message, frames: rest.map(read.bytes) }] : [];
        } catch {
          return [];
        }
      });
      if (mail.length === messages.length && mail.length > 1) {
        assert.deepEqual(
          [...bundles(mail)].map((parts) => parts.map(read.hex)),
          [example.hex],
        );
      }
    });
  }
});

describe("wrapped messages", () => {
  for (const example of read.vectors("wrapped") as readonly read.WrappedCase[]) {
    it(example.name, () => {
      const whole = read.bytes(example.hex);
      if (example.error !== undefined) {
        refuses(() => unwrap(whole), example);
        return;
      }
      assert.deepEqual(unwrap(whole).map(read.hex), example.frames);
      assert.equal(read.hex(wrap((example.frames ?? []).map(read.bytes))), example.hex);
    });
  }
});
