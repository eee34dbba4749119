/** From a value to the frames of a body; every fault names the place where it is. */

import { InvalidRequestError, MeshError, TooLargeError } from "../errors.js";
import { BODY_DEPTH_MAX, BODY_ITEMS_MAX, FRAMES_MAX, MESSAGE_MAX_BYTES } from "./limits.js";
import { dtypeOf, Tensor, tensorFault } from "./tensor.js";
import { Writer } from "./writer.js";

const BUFFERS_MAX = FRAMES_MAX - 2;
const INT64_MIN = -(2n ** 63n);
const UINT64_MAX = 2n ** 64n - 1n;

const EXT_TENSOR = 1;

const ALLOWED = "null, boolean, number, bigint, string, Uint8Array, array, plain object, Tensor and typed array";

/**
 * Return `[body, buffer...]` for a value.
 *
 * Numbers that are safe integers go as integers, all others as floats, `-0`, `NaN` and the infinities too. A
 * `Uint8Array` goes as bytes, other typed arrays as tensors of one dimension. Properties that are undefined are left
 * out. The buffers are views of the tensors' own memory; a call copies them, so that callers may change or transfer it
 * while the call may still have to be sent again.
 *
 * @throws {@link InvalidRequestError} something that the protocol cannot carry; `details.field` is its place.
 * @throws {@link TooLargeError} nested too deep, too many items, more tensors than frames, or over 64 MiB.
 */
export function packBody(value: unknown): Uint8Array[] {
  const packer = idle ?? new Packer();
  idle = undefined; // The value may have getters, and these may call this again.
  try {
    return packer.frames(value);
  } finally {
    idle = packer;
  }
}

let idle: Packer | undefined;

class Packer {
  readonly #writer = new Writer(MESSAGE_MAX_BYTES);
  readonly #payload = new Writer(MESSAGE_MAX_BYTES);
  /** The key or index by which each level was entered. */
  readonly #path: (string | number)[] = [];
  #buffers: Uint8Array[] = [];
  #items = 0;

  frames(value: unknown): Uint8Array[] {
    try {
      this.#write(value, 0);
      return [this.#writer.take(), ...this.#buffers];
    } catch (cause) {
      this.#writer.clear();
      if (cause instanceof MeshError) {
        throw cause;
      }
      throw new InvalidRequestError("body cannot be read", { details: { field: "body" }, cause });
    } finally {
      this.#buffers = [];
      this.#items = 0;
    }
  }

  #write(value: unknown, depth: number): void {
    switch (typeof value) {
      case "string":
        this.#text(value, depth);
        break;
      case "number":
        if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
          this.#writer.integer(value);
        } else {
          this.#writer.float(value);
        }
        break;
      case "boolean":
        this.#writer.boolean(value);
        break;
      case "bigint":
        if (value < INT64_MIN || value > UINT64_MAX) {
          throw this.#fault(depth, "is an integer of more than 64 bits");
        }
        this.#writer.bigint(value);
        break;
      case "object":
        this.#object(value, depth);
        break;
      default:
        throw this.#fault(depth, `is ${describe(value)}; allowed are ${ALLOWED}`);
    }
  }

  #text(value: string, depth: number): void {
    if (!value.isWellFormed()) {
      throw this.#fault(depth, "has a lone surrogate, which UTF-8 cannot say");
    }
    this.#writer.text(value);
  }

  #object(value: object | null, depth: number): void {
    if (value === null) {
      this.#writer.nil();
    } else if (Array.isArray(value)) {
      this.#array(value, depth);
    } else if (ArrayBuffer.isView(value)) {
      this.#view(value, depth);
    } else if (value instanceof Tensor) {
      this.#tensor(value, depth);
    } else if (isPlain(value)) {
      this.#map(value as Readonly<Record<string, unknown>>, depth);
    } else {
      throw this.#fault(depth, `is ${describe(value)}; allowed are ${ALLOWED}`);
    }
  }

  #array(values: readonly unknown[], depth: number): void {
    this.#descend(depth);
    const { length } = values;
    this.#count(length);
    this.#writer.array(length);
    for (let i = 0; i < length; i++) {
      this.#path[depth] = i;
      this.#write(values[i], depth + 1);
    }
  }

  #map(value: Readonly<Record<string, unknown>>, depth: number): void {
    this.#descend(depth);
    const keys = Object.keys(value);
    const values = keys.map((key) => value[key]);
    const pairs = values.reduce<number>((sum, item) => (item === undefined ? sum : sum + 1), 0);
    this.#count(pairs);
    this.#writer.map(pairs);
    for (let i = 0; i < keys.length; i++) {
      if (values[i] !== undefined) {
        this.#path[depth] = keys[i] ?? "";
        this.#text(keys[i] ?? "", depth + 1);
        this.#write(values[i], depth + 1);
      }
    }
  }

  #descend(depth: number): void {
    if (depth === BODY_DEPTH_MAX) {
      const field = this.#place(depth);
      throw new TooLargeError(`${field} is nested deeper than ${BODY_DEPTH_MAX}, or holds itself`, {
        details: { field, limit: BODY_DEPTH_MAX },
      });
    }
  }

  #count(items: number): void {
    this.#items += items;
    if (this.#items > BODY_ITEMS_MAX) {
      throw new TooLargeError(`body has over ${BODY_ITEMS_MAX} items`, {
        details: { field: "body", limit: BODY_ITEMS_MAX },
      });
    }
  }

  #view(value: ArrayBufferView, depth: number): void {
    const dtype = dtypeOf(value);
    if (dtype === undefined) {
      throw this.#fault(depth, `is ${describe(value)}; allowed are ${ALLOWED}`);
    }
    const bytes = this.#attached(value, depth);
    if (value instanceof Uint8Array || Object.prototype.toString.call(value) === "[object Uint8Array]") {
      this.#writer.bytes(bytes);
    } else {
      this.#extension(bytes, dtype, [(value as Float32Array).length], depth);
    }
  }

  #tensor({ data, dtype, shape }: Tensor, depth: number): void {
    const bytes = this.#attached(data, depth);
    const fault = tensorFault(bytes.byteLength, dtype, shape);
    if (fault !== undefined) {
      throw this.#fault(depth, `does not fit: ${fault}`);
    }
    this.#extension(bytes, dtype, shape, depth);
  }

  #extension(bytes: Uint8Array, dtype: string, shape: readonly number[], depth: number): void {
    if (this.#buffers.length === BUFFERS_MAX) {
      const field = this.#place(depth);
      throw new TooLargeError(`${field} is one tensor more than the ${BUFFERS_MAX} that a body may have`, {
        details: { field, limit: BUFFERS_MAX },
      });
    }
    const payload = this.#payload;
    payload.array(3);
    payload.integer(this.#buffers.length);
    payload.text(dtype);
    payload.array(shape.length);
    for (const size of shape) {
      payload.integer(size);
    }
    this.#writer.extension(EXT_TENSOR, payload.take());
    this.#buffers.push(bytes);
  }

  /** Return the bytes of a view whose memory is still there; a copy if threads share it. */
  #attached({ buffer, byteOffset, byteLength }: ArrayBufferView, depth: number): Uint8Array {
    if (byteLength > 0) {
      const bytes = new Uint8Array(buffer, byteOffset, byteLength);
      return buffer instanceof ArrayBuffer ? bytes : bytes.slice();
    }
    try {
      return new Uint8Array(buffer, 0, 0);
    } catch (cause) {
      const field = this.#place(depth);
      throw new InvalidRequestError(`${field} is detached: its memory was transferred`, { details: { field }, cause });
    }
  }

  #fault(depth: number, what: string): InvalidRequestError {
    const field = this.#place(depth);
    return new InvalidRequestError(`${field} ${what}`, { details: { field } });
  }

  #place(depth: number): string {
    const steps = this.#path.slice(0, depth);
    return "body" + steps.map((step) => (typeof step === "number" ? `[${step}]` : `.${step}`)).join("");
  }
}

/** Whether an object is one of literals or JSON, of whatever realm. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null || Object.getPrototypeOf(prototype) === null;
}

function describe(value: unknown): string {
  if (typeof value !== "object") {
    return typeof value === "undefined" ? "undefined" : `a ${typeof value}`;
  }
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  const name = (value as { constructor?: { name?: unknown } }).constructor?.name;
  return `a ${tag === "Object" && typeof name === "string" ? name : tag}`;
}
