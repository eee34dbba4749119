/** What bodies carry, and what is refused before anything is sent. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { runInNewContext } from "node:vm";

import { InvalidRequestError, type MeshError, TooLargeError } from "../../src/errors.js";
import { packBody, Tensor, unpackBody } from "../../src/wire/body.js";
import { hex, plain } from "./vectors.js";

function echoed(value: unknown): unknown {
  return plain(unpackBody(packBody(value)));
}

function refused(value: unknown, field: string, about: string, kind: typeof MeshError = InvalidRequestError): void {
  assert.throws(
    () => packBody(value),
    (thrown) => {
      assert.ok(thrown instanceof kind);
      assert.equal(thrown.details.field, field);
      assert.ok(thrown.message.startsWith(field), thrown.message);
      assert.ok(thrown.message.includes(about), thrown.message);
      return true;
    },
  );
}

function nested(levels: number): unknown {
  return levels ? [nested(levels - 1)] : 0;
}

describe("packBody", () => {
  it("carries numbers so that they come back as they were", () => {
    const edges = [0, 127, 128, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER];
    const low = [-1, -32, -33, -128, -129, -32768, -32769, -(2 ** 31), -(2 ** 31) - 1, Number.MIN_SAFE_INTEGER];
    const floats = [0.1, -0, NaN, Infinity, -Infinity, 2 ** 53, 1e300, Number.MIN_VALUE];
    const values = [...edges, ...low, ...floats];
    assert.deepEqual(echoed(values), values);
  });

  it("sends what no integer can say as a float", () => {
    assert.equal(hex(packBody(-0)[0] ?? new Uint8Array()), "cb8000000000000000");
    assert.equal(hex(packBody(2 ** 53)[0] ?? new Uint8Array()), "cb4340000000000000");
  });

  it("carries bigints of 64 bits, which come back as numbers where these hold them", () => {
    const values = [2n ** 64n - 1n, -(2n ** 63n), 2n ** 53n, 5n, -5n, 2n ** 53n - 1n];
    assert.deepEqual(echoed(values), [...values.slice(0, 3), 5, -5, Number.MAX_SAFE_INTEGER]);
    refused({ n: [2n ** 64n] }, "body.n[0]", "64 bits");
    refused(-(2n ** 63n) - 1n, "body", "64 bits");
  });

  it("carries strings of any length and script", () => {
    const values = ["", "é", "😀", "\ufffd", "\0", "x".repeat(31), "é".repeat(16), "x".repeat(255), "語".repeat(30000)];
    assert.deepEqual(echoed(values), values);
    const long = "x".repeat(10 * 2 ** 20);
    assert.equal((unpackBody(packBody({ long })) as { long: string }).long === long, true);
  });

  it("refuses lone surrogates, in keys too, and names the place", () => {
    refused({ texts: ["fine", "\ud800"] }, "body.texts[1]", "surrogate");
    refused(`${"x".repeat(100)}\udc00`, "body", "surrogate");
    refused({ "\ud83d": 1 }, "body.\ud83d", "surrogate");
  });

  it("leaves out properties that are undefined, and refuses undefined elsewhere", () => {
    assert.deepEqual(echoed({ a: undefined, b: [{ c: undefined, d: 1 }] }), { b: [{ d: 1 }] });
    refused([1, undefined], "body[1]", "undefined");
    refused(undefined, "body", "undefined");
  });

  it("refuses what is no plain value, and tells what it was given", () => {
    refused({ at: new Date(0) }, "body.at", "a Date");
    refused({ map: new Map() }, "body.map", "a Map");
    refused([() => 1], "body[0]", "a function");
    refused(Symbol("s"), "body", "a symbol");
    refused(
      {
        deep: {
          own: new (class Custom {
            value = 1;
          })(),
        },
      },
      "body.deep.own",
      "a Custom",
    );
    refused(Promise.resolve([]), "body", "a Promise");
    refused(new ArrayBuffer(1), "body", "a ArrayBuffer");
    refused(new DataView(new ArrayBuffer(1)), "body", "a DataView");
  });

  it("carries literals of another realm, and objects without a prototype", () => {
    assert.deepEqual(echoed(runInNewContext("({ a: [1, new Uint8Array([2])] })")), { a: [1, Uint8Array.of(2)] });
    assert.deepEqual(echoed(Object.assign(Object.create(null), { a: 1 })), { a: 1 });
  });

  it("takes 32 levels, and refuses more and what holds itself", () => {
    assert.deepEqual(echoed(nested(32)), nested(32));
    refused(nested(33), `body${"[0]".repeat(32)}`, "nested", TooLargeError);
    const ring: unknown[] = [];
    ring.push(ring, ring);
    refused(ring, `body${"[0]".repeat(32)}`, "holds itself", TooLargeError);
  });

  it("takes 2 ** 21 items, wherever they are, and refuses more", () => {
    const row = Array<number>(1023).fill(1);
    const most = Array.from({ length: 2048 }, () => row);
    assert.deepEqual(echoed(most), most);
    refused([...most.slice(1), [...row, 1]], "body", "2097152", TooLargeError);
    refused([...most.slice(1), { row }], "body", "2097152", TooLargeError);
    assert.deepEqual(echoed([row]), [row]);
  });

  it("refuses more than 64 MiB before it makes room for it", () => {
    const megabyte = "x".repeat(2 ** 20);
    refused(Array(65).fill(megabyte), "body", "67108864", TooLargeError);
    assert.deepEqual(echoed("small again"), "small again");
  });

  it("tells what a getter threw, and works on", () => {
    const cause = new Error("mine");
    const value = {
      get a(): number {
        throw cause;
      },
    };
    assert.throws(() => packBody([1, value]), { code: "INVALID_REQUEST", cause });
    assert.deepEqual(echoed([2]), [2]);
  });

  it("may be called by a getter of the value", () => {
    const value = {
      get inner(): unknown {
        return echoed({ text: "inner" });
      },
    };
    assert.deepEqual(echoed({ before: 1, value, after: 2 }), {
      before: 1,
      value: { inner: { text: "inner" } },
      after: 2,
    });
  });

  it("carries a key that objects are wary of", () => {
    const value: unknown = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}');
    const back = unpackBody(packBody(value)) as Record<string, unknown>;
    assert.deepEqual(Object.keys(back), ["__proto__", "constructor"]);
    assert.equal(Object.getPrototypeOf(back), Object.prototype);
    assert.equal((back as { polluted?: boolean }).polluted, undefined);
  });

  it("gives each value bytes of its own", () => {
    const first = packBody("first");
    packBody("second");
    assert.equal(unpackBody(first), "first");
  });
});

describe("tensors", () => {
  it("are made of typed arrays, whose memory is sent as it is", () => {
    const rows = new Float32Array([1, 2, 3, 4]);
    const frames = packBody({ rows: rows.subarray(1), ids: BigInt64Array.of(-1n), bytes: Uint8Array.of(7) });
    assert.equal(frames.length, 3);
    assert.equal(frames[1]?.buffer, rows.buffer);
    assert.deepEqual(plain(unpackBody(frames)), {
      rows: plain(Tensor.from(rows.slice(1))),
      ids: plain(Tensor.from(BigInt64Array.of(-1n))),
      bytes: Uint8Array.of(7),
    });
  });

  it("are read over the memory that was received", () => {
    const frames = packBody(new Tensor(new Uint8Array(16), "float32", [2, 2]));
    const tensor = unpackBody(frames) as Tensor;
    assert.equal(tensor.values().buffer, frames[1]?.buffer);
    assert.equal(tensor.toFloat32().buffer, frames[1]?.buffer);
  });

  it("are copied where the memory is not aligned", () => {
    const data = new Uint8Array(new Uint8Array([0, ...new Uint8Array(Float64Array.of(1.5, -2).buffer)]).buffer, 1);
    const tensor = new Tensor(data, "float64", [2]);
    assert.deepEqual(tensor.values(), Float64Array.of(1.5, -2));
    assert.deepEqual(tensor.toFloat32(), Float32Array.of(1.5, -2));
    assert.deepEqual(new Tensor(Buffer.from(data), "float64", [2]).values(), Float64Array.of(1.5, -2));
  });

  it("turn to float32 from every type", () => {
    const half = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00, 0x7e00, 0x8000);
    const expected = Float32Array.of(1, -2, 65504, 2 ** -24, Infinity, NaN, -0);
    assert.deepEqual(new Tensor(new Uint8Array(half.buffer), "float16", [7]).toFloat32(), expected);
    const brain = new Uint8Array(Uint16Array.of(0x3f80, 0xc040).buffer);
    assert.deepEqual(new Tensor(brain, "bfloat16", [2]).toFloat32(), Float32Array.of(1, -3));
    assert.deepEqual(Tensor.from(Uint16Array.of(65535)).toFloat32(), Float32Array.of(65535));
    assert.deepEqual(Tensor.from(BigUint64Array.of(9n)).toFloat32(), Float32Array.of(9));
  });

  it("are refused when their memory is gone", () => {
    const values = new Float32Array(4);
    const tensor = Tensor.from(values);
    const bytes = Uint8Array.of(1);
    structuredClone([values.buffer, bytes.buffer], { transfer: [values.buffer, bytes.buffer] });
    refused({ values }, "body.values", "detached");
    refused([tensor], "body[0]", "detached");
    refused(bytes, "body", "detached");
  });

  it("of memory that threads share are copied", () => {
    const shared = new Int32Array(new SharedArrayBuffer(4));
    const [, buffer] = packBody(shared);
    shared[0] = 1;
    assert.deepEqual(buffer, new Uint8Array(4));
  });

  it("of wrong types, sizes and numbers are refused", () => {
    const data = new Uint8Array(4);
    for (const [dtype, shape, about] of [
      ["float32", [2], "needs 8 bytes"],
      ["float32", [1.5], "non-negative"],
      ["int8", [-4], "non-negative"],
      ["int8", [2 ** 40, 2 ** 40, 0], "needs 0 bytes"],
      ["int8", Array<number>(33).fill(1), "32"],
      ["toString", [4], "not one of"],
    ] as const) {
      assert.throws(
        () => new Tensor(data, dtype as "int8", shape),
        (thrown) => {
          assert.ok(thrown instanceof InvalidRequestError && thrown.message.includes(about), String(thrown));
          return true;
        },
      );
    }
    assert.throws(() => Tensor.from([1] as unknown as Float32Array), InvalidRequestError);
    refused(
      Array.from({ length: 7 }, () => new Int8Array(1)),
      "body[6]",
      "6",
      TooLargeError,
    );
  });
});
