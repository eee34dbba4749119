import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { HANDSHAKES_FAIL_MIN, HANDSHAKES_FAIL_MS, HandshakeWatch } from "../../src/transport/handshake.js";

const BROKEN = "handshake:error:other";

function watch(succeeded = false): HandshakeWatch {
  return new HandshakeWatch("tcp://127.0.0.1:1", undefined, succeeded);
}

/** Connections that end in their handshakes, `count` of them over `ms`; what the last one makes certain. */
function broken(of: HandshakeWatch, count: number, ms: number): string | undefined {
  for (let number = 0; number < count - 1; number += 1) {
    assert.equal(undefined, of.take((number * ms) / (count - 1), BROKEN));
  }
  return of.take(ms, BROKEN)?.told;
}

describe("connections that end in their handshakes", () => {
  it("may be for want of keys if there are many, for long", () => {
    assert.match(broken(watch(), HANDSHAKES_FAIL_MIN, HANDSHAKES_FAIL_MS) ?? "", /again and again; it may serve only/);
  });

  it("are a fault of the network if there are few, or for a moment", () => {
    assert.equal(undefined, broken(watch(), HANDSHAKES_FAIL_MIN - 1, 60_000));
    assert.equal(undefined, broken(watch(), 100, HANDSHAKES_FAIL_MS - 1));
  });

  it("are told of once, and again when as many have followed for as long", () => {
    const told = watch();
    assert.ok(broken(told, HANDSHAKES_FAIL_MIN, HANDSHAKES_FAIL_MS));
    assert.equal(undefined, told.take(HANDSHAKES_FAIL_MS + 1, BROKEN));
    for (let number = 1; number < HANDSHAKES_FAIL_MIN; number += 1) {
      assert.equal(undefined, told.take(2 * HANDSHAKES_FAIL_MS, BROKEN));
    }
    assert.ok(told.take(2 * HANDSHAKES_FAIL_MS + 1, BROKEN)?.told);
  });

  it("are no lack of keys where a broker has answered", () => {
    assert.equal(undefined, broken(watch(true), 100, 60_000));
    const answered = watch();
    answered.take(0, "handshake");
    assert.equal(undefined, broken(answered, 100, 60_000));
  });
});
