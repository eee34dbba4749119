/** The tokens of a text that have come, kept so that another worker can go on from the last one. */

import { DecodeError } from "../errors.js";
import { unpackBody } from "../wire/body.js";

const TOKEN_BYTES = 4;
const TOKEN_MAX = 2 ** 32 - 1;

/** A million tokens, the longest answer that may be asked for. A request has to leave room for it. */
export const STATE_MAX_BYTES = 4 * 1024 * 1024;

/** Tokens of a stream of `generate` or `chat`, in order, each as a little-endian integer of 32 bits. */
export class Received {
  private view = new DataView(new ArrayBuffer(64 * TOKEN_BYTES));
  private length = 0;
  private unknown = false;

  /** Take in a chunk; one that names no tokens, from an engine of another kind, makes the state unknown for good. */
  add(frames: readonly Uint8Array[]): void {
    const tokens = tokensOf(frames);
    if (tokens === undefined || this.length + tokens.length * TOKEN_BYTES > STATE_MAX_BYTES) {
      this.unknown = true;
    }
    if (this.unknown || tokens === undefined) {
      return;
    }
    this.reserve(this.length + tokens.length * TOKEN_BYTES);
    for (const token of tokens) {
      this.view.setUint32(this.length, token, true);
      this.length += TOKEN_BYTES;
    }
  }

  /** Return what a worker goes on from, undefined if that is not known or too long for a message. */
  state(): Uint8Array | undefined {
    return this.unknown ? undefined : new Uint8Array(this.view.buffer.slice(0, this.length));
  }

  private reserve(bytes: number): void {
    if (bytes > this.view.byteLength) {
      const larger = new Uint8Array(Math.max(bytes, 2 * this.view.byteLength));
      larger.set(new Uint8Array(this.view.buffer, 0, this.length));
      this.view = new DataView(larger.buffer);
    }
  }
}

function tokensOf(frames: readonly Uint8Array[]): readonly number[] | undefined {
  let value: unknown;
  try {
    value = unpackBody(frames);
  } catch (error) {
    if (error instanceof DecodeError) {
      return undefined;
    }
    throw error;
  }
  const tokens: unknown = typeof value === "object" && value !== null && "tokens" in value ? value.tokens : undefined;
  return Array.isArray(tokens) && tokens.every(isToken) ? tokens : undefined;
}

function isToken(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= TOKEN_MAX;
}
