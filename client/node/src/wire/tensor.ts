/** Arrays of numbers, which travel as raw bytes beside the body. */

import { InvalidRequestError } from "../errors.js";
import { DIMENSIONS_MAX } from "./limits.js";

/** The arrays of JavaScript that hold the elements of each type; those of 16-bit floats hold their bits. */
const ARRAYS = {
  bool: Uint8Array,
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
  float64: Float64Array,
} as const;

/** Element types of a tensor. */
export type Dtype = keyof typeof ARRAYS;

/** The arrays of JavaScript that a tensor can be made of, and can be seen as. */
export type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

const DTYPES: Readonly<Record<string, Dtype>> = {
  Uint8Array: "uint8",
  Uint8ClampedArray: "uint8",
  Int8Array: "int8",
  Uint16Array: "uint16",
  Int16Array: "int16",
  Float16Array: "float16",
  Uint32Array: "uint32",
  Int32Array: "int32",
  Float32Array: "float32",
  BigUint64Array: "uint64",
  BigInt64Array: "int64",
  Float64Array: "float64",
};

/** An array of numbers: little-endian, row-major bytes with their element type and shape. */
export class Tensor {
  readonly data: Uint8Array;
  readonly dtype: Dtype;
  readonly shape: readonly number[];

  /**
   * @param data - the bytes, of which this is a view; they are copied when a call is made with it, and may then change.
   * @throws {@link InvalidRequestError} if the shape is none, or does not fit the bytes.
   */
  constructor(data: Uint8Array, dtype: Dtype, shape: readonly number[]) {
    const fault = tensorFault(data.byteLength, dtype, shape);
    if (fault !== undefined) {
      throw new InvalidRequestError(fault, { details: { field: "tensor" } });
    }
    this.data = data;
    this.dtype = dtype;
    this.shape = shape;
  }

  /**
   * Return a tensor over the elements of an array: a view, which is copied when a call is made with it.
   *
   * @param shape - one dimension if left out.
   * @throws {@link InvalidRequestError} if it is no such array, or the shape does not fit.
   */
  static from(values: NumberArray | Uint8ClampedArray, shape?: readonly number[]): Tensor {
    const dtype = dtypeOf(values);
    if (dtype === undefined) {
      throw new InvalidRequestError("a tensor is made of a typed array", { details: { field: "tensor" } });
    }
    const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return new Tensor(data, dtype, shape ?? [values.length]);
  }

  /** The number of elements. */
  get length(): number {
    return this.data.byteLength / ARRAYS[this.dtype].BYTES_PER_ELEMENT;
  }

  /**
   * Return the elements, row by row: over the same memory where that is aligned for it, otherwise a copy.
   *
   * Booleans are 0 and 1; of `float16` and `bfloat16` it has the bits, see {@link Tensor.toFloat32}.
   */
  values(): NumberArray {
    const { buffer, byteOffset } = this.data;
    const Values = ARRAYS[this.dtype] as new (
      buffer: ArrayBufferLike,
      byteOffset?: number,
      length?: number,
    ) => NumberArray;
    if (byteOffset % ARRAYS[this.dtype].BYTES_PER_ELEMENT === 0) {
      return new Values(buffer, byteOffset, this.length);
    }
    return new Values(new Uint8Array(this.data).buffer);
  }

  /** Return the elements as `float32`: over the same memory if they are that and aligned, otherwise converted. */
  toFloat32(): Float32Array {
    const values = this.values();
    if (values instanceof Float32Array) {
      return values;
    }
    if (values instanceof Uint16Array && this.dtype !== "uint16") {
      return this.dtype === "float16" ? Float32Array.from(values, halfToNumber) : fromBfloat16(values);
    }
    return Float32Array.from(values as Iterable<number | bigint>, Number);
  }
}

/** Return the element type of a typed array of any realm; undefined for anything else. */
export function dtypeOf(value: ArrayBufferView): Dtype | undefined {
  return DTYPES[String((value as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag])];
}

/** Return what is wrong with a tensor, undefined if nothing is. */
export function tensorFault(byteLength: number, dtype: string, shape: readonly unknown[]): string | undefined {
  if (!Object.hasOwn(ARRAYS, dtype)) {
    return `tensor dtype '${dtype}' is not one of ${Object.keys(ARRAYS).join(", ")}`;
  }
  if (shape.length > DIMENSIONS_MAX) {
    return `a tensor has ${shape.length} dimensions, allowed are ${DIMENSIONS_MAX}`;
  }
  let elements = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || (size as number) < 0) {
      return "a tensor shape holds non-negative integers";
    }
    elements *= size as number;
  }
  // Where the product is no longer exact, or not even finite, it is far beyond the bytes of any message.
  const wanted = shape.includes(0) ? 0 : elements * ARRAYS[dtype as Dtype].BYTES_PER_ELEMENT;
  return wanted === byteLength
    ? undefined
    : `tensor of shape [${shape.join(", ")}] and ${dtype} needs ${wanted} bytes, its buffer has ${byteLength}`;
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) {
    return fraction ? NaN : sign * Infinity;
  }
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

function fromBfloat16(values: Uint16Array): Float32Array {
  return new Float32Array(Int32Array.from(values, (bits) => bits << 16).buffer);
}
