/**
 * MessagePack, read, from bytes that nobody vouches for.
 *
 * The caller asks which family comes next and then reads it, so that an integer is told from a float, and nothing is
 * made room for that is not there.
 */

import { Buffer, isUtf8 } from "node:buffer";

import { FAMILIES, Family, type FamilyNumber } from "./families.js";
import { BODY_ITEMS_MAX } from "./limits.js";

/** Up to this length a string is more quickly read here than by a call into the runtime. */
const SHORT_BYTES = 24;

const UINT32 = 2 ** 32;

/** The bytes are not MessagePack; the message goes on from what they are. */
export class Malformed extends Error {}

/** Reads the values in some bytes one after the other. All methods throw {@link Malformed} on what is not there. */
export class Reader {
  readonly #bytes: Buffer;
  /** Items of all arrays and maps that were begun; a key with its value is one. */
  #begun = 0;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** How many bytes have not been read. */
  get left(): number {
    return this.#bytes.length - this.#at;
  }

  /** The family of the value that comes next. */
  family(): FamilyNumber {
    const code = this.#bytes[this.#at];
    if (code === undefined) {
      throw new Malformed("it ends too early");
    }
    return FAMILIES[code] ?? Family.none;
  }

  /** Read nil or a boolean. */
  simple(): null | boolean {
    const code = this.#code();
    return code === 0xc0 ? null : code === 0xc3;
  }

  /** Read an integer; as a bigint if it is beyond the safe ones. */
  integer(): number | bigint {
    const code = this.#code();
    if (code < 0x80) {
      return code;
    }
    if (code >= 0xe0) {
      return code - 0x100;
    }
    const bytes = this.#bytes;
    const width = 1 << (code & 3);
    const at = this.#pass(width);
    const signed = code >= 0xd0;
    if (width === 1) {
      return signed ? bytes.readInt8(at) : (bytes[at] ?? 0);
    }
    if (width === 2) {
      return signed ? bytes.readInt16BE(at) : bytes.readUInt16BE(at);
    }
    if (width === 4) {
      return signed ? bytes.readInt32BE(at) : bytes.readUInt32BE(at);
    }
    const high = signed ? bytes.readInt32BE(at) : bytes.readUInt32BE(at);
    const number = high * UINT32 + bytes.readUInt32BE(at + 4);
    if (Number.isSafeInteger(number)) {
      return number;
    }
    return signed ? bytes.readBigInt64BE(at) : bytes.readBigUInt64BE(at);
  }

  float(): number {
    return this.#code() === 0xca ? this.#bytes.readFloatBE(this.#pass(4)) : this.#bytes.readDoubleBE(this.#pass(8));
  }

  /** Read a string; what is not UTF-8 is refused. */
  text(): string {
    const code = this.#code();
    const length = code < 0xc0 ? code & 0x1f : this.#length(code - 0xd9);
    const start = this.#pass(length);
    if (length <= SHORT_BYTES) {
      const short = this.#ascii(start, start + length);
      if (short !== undefined) {
        return short;
      }
    }
    const text = this.#bytes.toString("utf8", start, start + length);
    // What is no UTF-8 becomes a replacement character, but so does that character itself.
    if (text.includes("\ufffd") && !isUtf8(this.#bytes.subarray(start, start + length))) {
      throw new Malformed("a str is not UTF-8");
    }
    return text;
  }

  /** Read a byte string, as a view of the bytes. */
  bytes(): Uint8Array {
    return this.#view(this.#length(this.#code() - 0xc4));
  }

  /** Begin an array; return how many values follow. */
  array(): number {
    return this.#items(0x90, 0xdc, 1);
  }

  /** Begin a map; return how many keys follow, each with its value behind it. */
  map(): number {
    return this.#items(0x80, 0xde, 2);
  }

  /** Read an extension type: its code, from -128 to 127, and its payload as a view. */
  extension(): [code: number, payload: Uint8Array] {
    const code = this.#code();
    const length = code >= 0xd4 ? 1 << (code - 0xd4) : this.#length(code - 0xc7);
    const type = this.#bytes.readInt8(this.#pass(1));
    return [type, this.#view(length)];
  }

  /**
   * Pass over one value, however deep.
   *
   * @param itemsMax - of one array or map in it; more are refused.
   */
  skip(itemsMax: number): void {
    for (let pending = 1; pending > 0; pending--) {
      switch (this.family()) {
        case Family.nil:
        case Family.boolean:
          this.simple();
          break;
        case Family.integer:
          this.integer();
          break;
        case Family.float:
          this.float();
          break;
        case Family.text:
          this.text();
          break;
        case Family.bytes:
          this.bytes();
          break;
        case Family.array:
          pending += checkItems(this.array(), itemsMax);
          break;
        case Family.map:
          pending += 2 * checkItems(this.map(), itemsMax);
          break;
        case Family.extension:
          this.extension();
          break;
        case Family.none:
          throw new Malformed("it has the byte that msgpack never uses");
      }
    }
  }

  #ascii(start: number, end: number): string | undefined {
    const bytes = this.#bytes;
    let text = "";
    for (let at = start; at < end; at++) {
      const unit = bytes[at] ?? 0;
      if (unit >= 0x80) {
        return undefined;
      }
      text += String.fromCharCode(unit);
    }
    return text;
  }

  #items(small: number, code16: number, perItem: number): number {
    const code = this.#code();
    const items = code < 0xc0 ? code - small : this.#length(code - code16 + 1);
    if (items * perItem > this.left) {
      throw new Malformed(`it claims ${items} items and ends too early`);
    }
    this.#begun += items;
    if (this.#begun > BODY_ITEMS_MAX) {
      throw new Malformed(`it has over ${BODY_ITEMS_MAX} items`);
    }
    return items;
  }

  /** Read a length of 1, 2 or 4 bytes. */
  #length(power: number): number {
    if (power === 0) {
      return this.#code();
    }
    return power === 1 ? this.#bytes.readUInt16BE(this.#pass(2)) : this.#bytes.readUInt32BE(this.#pass(4));
  }

  #view(length: number): Uint8Array {
    const start = this.#pass(length);
    return new Uint8Array(this.#bytes.buffer, this.#bytes.byteOffset + start, length);
  }

  #code(): number {
    const code = this.#bytes[this.#at];
    if (code === undefined) {
      throw new Malformed("it ends too early");
    }
    this.#at += 1;
    return code;
  }

  /** Go on by so many bytes and return where they begin. */
  #pass(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.length - start) {
      throw new Malformed("it ends too early");
    }
    this.#at = start + length;
    return start;
  }
}

/** Return the number of items if it is allowed. */
export function checkItems(items: number, itemsMax: number): number {
  if (items > itemsMax) {
    throw new Malformed(`it has ${items} items in one array or map, allowed are ${itemsMax}`);
  }
  return items;
}
