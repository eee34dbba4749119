/** MessagePack, written: each value in its shortest form, into one buffer that grows up to a limit. */

import { Buffer } from "node:buffer";

import { TooLargeError } from "../errors.js";

/**
 * Values are written one behind the other into buffers of this size, and handed out where they are. A small one that is
 * kept keeps no more than this beside itself.
 */
const SLAB_BYTES = 16_384;

/** Up to this length a string is more quickly written here than by a call into the runtime. */
const SHORT_CHARS = 24;

const UINT32 = 2 ** 32;

/** Writes MessagePack. What it wrote is fetched with {@link Writer.take}, which begins anew. */
export class Writer {
  readonly #maxBytes: number;
  #buffer = Buffer.allocUnsafe(SLAB_BYTES);
  /** Where the value of now begins. */
  #start = 0;
  #size = 0;
  /** Where the room ends that there is without a new buffer. */
  #end: number;

  /** @param maxBytes - more than that is refused with {@link TooLargeError}, before room for it is made. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#end = Math.min(SLAB_BYTES, maxBytes);
  }

  /** Return what was written, and begin anew. */
  take(): Uint8Array {
    const written = this.#buffer.subarray(this.#start, this.#size);
    this.#start = this.#size;
    this.#begin();
    return written;
  }

  /** Forget what was written. */
  clear(): void {
    this.#size = this.#start;
    this.#begin();
  }

  nil(): void {
    this.#byte(0xc0);
  }

  boolean(value: boolean): void {
    this.#byte(value ? 0xc3 : 0xc2);
  }

  /** @param value - a safe integer. */
  integer(value: number): void {
    const at = this.#room(9);
    const buffer = this.#buffer;
    if (value >= 0) {
      if (value < 0x80) {
        buffer[at] = value;
        this.#size = at + 1;
      } else if (value < UINT32) {
        this.#sized(value, 0xcc);
      } else {
        buffer[at] = 0xcf;
        this.#size = buffer.writeUInt32BE(value % UINT32, buffer.writeUInt32BE(Math.floor(value / UINT32), at + 1));
      }
    } else if (value >= -0x20) {
      buffer[at] = value & 0xff;
      this.#size = at + 1;
    } else if (value >= -0x80) {
      buffer[at] = 0xd0;
      this.#size = buffer.writeInt8(value, at + 1);
    } else if (value >= -0x8000) {
      buffer[at] = 0xd1;
      this.#size = buffer.writeInt16BE(value, at + 1);
    } else if (value >= -0x80000000) {
      buffer[at] = 0xd2;
      this.#size = buffer.writeInt32BE(value, at + 1);
    } else {
      this.#big(0xd3, BigInt(value));
    }
  }

  /** @param value - from -2^63 to 2^64 - 1. */
  bigint(value: bigint): void {
    const number = Number(value);
    if (Number.isSafeInteger(number)) {
      this.integer(number);
    } else {
      this.#big(value < 0n ? 0xd3 : 0xcf, value);
    }
  }

  float(value: number): void {
    const at = this.#room(9);
    this.#buffer[at] = 0xcb;
    this.#size = this.#buffer.writeDoubleBE(value, at + 1);
  }

  /** @param value - without lone surrogates. */
  text(value: string): void {
    const { length } = value;
    if (length <= SHORT_CHARS && this.#ascii(value)) {
      return;
    }
    const bytes = Buffer.byteLength(value);
    this.#room(bytes + 5);
    if (bytes < 32) {
      this.#byte(0xa0 | bytes);
    } else {
      this.#sized(bytes, 0xd9);
    }
    this.#size += this.#buffer.write(value, this.#size, "utf8");
  }

  bytes(value: Uint8Array): void {
    this.#room(value.length + 5);
    this.#sized(value.length, 0xc4);
    this.#buffer.set(value, this.#size);
    this.#size += value.length;
  }

  /** Begin an array of so many values. */
  array(items: number): void {
    this.#container(items, 0x90, 0xdc);
  }

  /** Begin a map of so many keys, each followed by its value. */
  map(items: number): void {
    this.#container(items, 0x80, 0xde);
  }

  /** Write an extension type with its payload. */
  extension(code: number, payload: Uint8Array): void {
    this.#room(payload.length + 6);
    this.#sized(payload.length, 0xc7);
    this.#byte(code);
    this.#buffer.set(payload, this.#size);
    this.#size += payload.length;
  }

  #ascii(value: string): boolean {
    const start = this.#room(SHORT_CHARS + 1);
    const buffer = this.#buffer;
    for (let i = 0; i < value.length; i++) {
      const unit = value.charCodeAt(i);
      if (unit >= 0x80) {
        return false;
      }
      buffer[start + 1 + i] = unit;
    }
    buffer[start] = 0xa0 | value.length;
    this.#size = start + 1 + value.length;
    return true;
  }

  #container(items: number, small: number, code16: number): void {
    const at = this.#room(5);
    if (items < 16) {
      this.#byte(small | items);
    } else if (items < 0x10000) {
      this.#buffer[at] = code16;
      this.#size = this.#buffer.writeUInt16BE(items, at + 1);
    } else {
      this.#buffer[at] = code16 + 1;
      this.#size = this.#buffer.writeUInt32BE(items, at + 1);
    }
  }

  /** Write an unsigned integer of 8, 16 or 32 bits behind its code; those of the wider ones follow `code8`. */
  #sized(value: number, code8: number): void {
    const at = this.#room(5);
    const buffer = this.#buffer;
    if (value < 0x100) {
      buffer[at] = code8;
      buffer[at + 1] = value;
      this.#size = at + 2;
    } else if (value < 0x10000) {
      buffer[at] = code8 + 1;
      this.#size = buffer.writeUInt16BE(value, at + 1);
    } else {
      buffer[at] = code8 + 2;
      this.#size = buffer.writeUInt32BE(value, at + 1);
    }
  }

  #big(code: number, value: bigint): void {
    const at = this.#room(9);
    this.#buffer[at] = code;
    this.#size = this.#buffer.writeBigUInt64BE(BigInt.asUintN(64, value), at + 1);
  }

  #byte(value: number): void {
    const at = this.#room(1);
    this.#buffer[at] = value;
    this.#size = at + 1;
  }

  /** Make room for so many bytes and return where they begin. */
  #room(bytes: number): number {
    if (this.#size + bytes > this.#end) {
      this.#grow(bytes);
    }
    return this.#size;
  }

  /** What was made for one large value is not kept for small ones. */
  #begin(): void {
    if (this.#buffer.length > SLAB_BYTES) {
      this.#buffer = Buffer.allocUnsafe(SLAB_BYTES);
      this.#start = this.#size = 0;
    }
    this.#end = Math.min(this.#buffer.length, this.#start + this.#maxBytes);
  }

  #grow(bytes: number): void {
    const written = this.#size - this.#start;
    const needed = written + bytes;
    if (needed > this.#maxBytes) {
      const details = { field: "body", limit: this.#maxBytes };
      throw new TooLargeError(`body has over ${this.#maxBytes} bytes`, { details });
    }
    const grown = Buffer.allocUnsafe(Math.max(needed, 2 * written, SLAB_BYTES));
    this.#buffer.copy(grown, 0, this.#start, this.#size);
    this.#buffer = grown;
    this.#start = 0;
    this.#size = written;
    this.#end = Math.min(grown.length, this.#maxBytes);
  }
}
