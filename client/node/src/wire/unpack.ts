/** From the frames of a body to its value. */

import { DecodeError } from "../errors.js";
import { BODY_DEPTH_MAX, DIMENSIONS_MAX } from "./limits.js";
import { FAMILY_NAMES, Family, type FamilyNumber } from "./families.js";
import { Malformed, Reader } from "./reader.js";
import { type Dtype, Tensor, tensorFault } from "./tensor.js";

const EXT_TENSOR = 1;

/**
 * Return the value of `[body, buffer...]`.
 *
 * Integers beyond the safe ones are bigints. Bytes and tensors are views of the frames.
 *
 * @throws {@link DecodeError} not exactly one value of the allowed kinds, too deep, too many items, or a tensor
 * that does not fit its buffer.
 */
export function unpackBody(frames: readonly Uint8Array[]): unknown {
  const [body, ...buffers] = frames;
  if (body === undefined) {
    throw new DecodeError("the message has no body");
  }
  const reader = new Reader(body);
  try {
    const value = readValue(reader, buffers, 0);
    if (reader.left) {
      throw new Malformed(`it has ${reader.left} bytes behind its end`);
    }
    return value;
  } catch (error) {
    if (error instanceof Malformed) {
      throw new DecodeError(`body is not valid: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

function readValue(reader: Reader, buffers: readonly Uint8Array[], depth: number): unknown {
  const family = reader.family();
  switch (family) {
    case Family.nil:
    case Family.boolean:
      return reader.simple();
    case Family.integer:
      return reader.integer();
    case Family.float:
      return reader.float();
    case Family.text:
      return reader.text();
    case Family.bytes:
      return reader.bytes();
    case Family.array:
      return readArray(reader, buffers, depth);
    case Family.map:
      return readMap(reader, buffers, depth);
    case Family.extension:
      return readExtension(reader, buffers);
    case Family.none:
      throw new Malformed(`it has the ${FAMILY_NAMES[family]}`);
  }
}

function checkDepth(depth: number): void {
  if (depth === BODY_DEPTH_MAX) {
    throw new Malformed(`it is nested deeper than ${BODY_DEPTH_MAX}`);
  }
}

function readArray(reader: Reader, buffers: readonly Uint8Array[], depth: number): unknown[] {
  checkDepth(depth);
  const values: unknown[] = [];
  for (let left = reader.array(); left > 0; left--) {
    values.push(readValue(reader, buffers, depth + 1));
  }
  return values;
}

function readMap(reader: Reader, buffers: readonly Uint8Array[], depth: number): Record<string, unknown> {
  checkDepth(depth);
  const values: Record<string, unknown> = {};
  for (let left = reader.map(); left > 0; left--) {
    if (reader.family() !== Family.text) {
      throw new Malformed("it has a key that is not a string");
    }
    const key = reader.text();
    const value = readValue(reader, buffers, depth + 1);
    if (key === "__proto__") {
      Object.defineProperty(values, key, { value, enumerable: true, configurable: true, writable: true });
    } else {
      values[key] = value;
    }
  }
  return values;
}

function readExtension(reader: Reader, buffers: readonly Uint8Array[]): Tensor {
  const [code, payload] = reader.extension();
  if (code !== EXT_TENSOR) {
    throw new Malformed(`extension type ${code} is not allowed`);
  }
  const [index, dtype, shape] = readFields(new Reader(payload));
  const data = buffers[Number(index)];
  if (data === undefined) {
    throw new Malformed(`tensor buffer ${index} is missing, the message has ${buffers.length}`);
  }
  const fault = tensorFault(data.byteLength, dtype, shape);
  if (fault !== undefined) {
    throw new Malformed(fault);
  }
  return new Tensor(
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    dtype as Dtype,
    shape as readonly number[],
  );
}

function readFields(reader: Reader): [index: number | bigint, dtype: string, shape: readonly unknown[]] {
  expect(reader, Family.array);
  if (reader.array() !== 3) {
    throw noTensor();
  }
  expect(reader, Family.integer);
  const index = reader.integer();
  expect(reader, Family.text);
  const dtype = reader.text();
  expect(reader, Family.array);
  const dimensions = reader.array();
  if (dimensions > DIMENSIONS_MAX) {
    throw new Malformed(`a tensor has ${dimensions} dimensions, allowed are ${DIMENSIONS_MAX}`);
  }
  const shape = Array.from({ length: dimensions }, () => {
    if (reader.family() !== Family.integer) {
      throw new Malformed("a tensor shape holds non-negative integers");
    }
    return reader.integer();
  });
  if (reader.left) {
    throw noTensor();
  }
  return [index, dtype, shape];
}

function expect(reader: Reader, family: FamilyNumber): void {
  if (reader.family() !== family) {
    throw noTensor();
  }
}

function noTensor(): Malformed {
  return new Malformed("a tensor is not [index, dtype, shape]");
}
