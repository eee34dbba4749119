/** The conformance vectors, which all languages share, read into values of this client. */

import { readFileSync } from "node:fs";

import { type Dtype, Tensor } from "../../src/wire/body.js";

interface Outcome {
  readonly name: string;
  readonly error?: string;
  readonly about?: string;
  readonly canonical?: boolean;
}

export interface HeaderCase extends Outcome {
  readonly hex: string;
  readonly decoded?: { readonly type: string; readonly fields: Readonly<Record<string, unknown>> } | null;
}

export interface BodyCase extends Outcome {
  readonly hex: readonly string[];
  readonly tail?: readonly [hex: string, times: number];
  readonly decoded?: unknown;
}

export interface BundleCase extends Outcome {
  readonly hex: readonly string[];
  readonly messages?: readonly (readonly string[])[];
}

export interface WrappedCase extends Outcome {
  readonly hex: string;
  readonly frames?: readonly string[];
}

/** Read the cases of a file. The tests run from `build/test/wire`. */
export function vectors(name: string): unknown {
  const path = new URL(`../../../../../protocol/vectors/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8"));
}

export function bytes(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

/** Return the frames of a body. */
export function bodyFrames({ hex: frames, tail }: BodyCase): Uint8Array[] {
  const [body = "", ...buffers] = frames;
  return [body + (tail ? tail[0].repeat(tail[1]) : ""), ...buffers].map(bytes);
}

export function hex(data: Uint8Array): string {
  return Buffer.from(data).toString("hex");
}

/** Return what the JSON form of a value stands for. */
export function fromJson(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(fromJson);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const entries = Object.entries(value as Record<string, unknown>);
  const [key, special] = entries[0] ?? [];
  switch (key) {
    case "$bytes":
      return bytes(String(special));
    case "$float":
      return toFloat(String(special));
    case "$int":
      return BigInt(String(special));
    case "$tensor": {
      const { dtype, shape, data } = special as { dtype: Dtype; shape: number[]; data: string };
      return new Tensor(bytes(data), dtype, shape);
    }
    default:
      return Object.fromEntries(entries.map(([name, item]) => [name, fromJson(item)]));
  }
}

function toFloat(text: string): number {
  return Number(text.replace("inf", "Infinity"));
}

function isWhole(number: number): boolean {
  return Number.isSafeInteger(number) && !Object.is(number, -0);
}

/** Whether a value has a float that JavaScript cannot tell from an integer. */
export function hasWholeFloat(value: unknown): boolean {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  return Object.entries(value).some(
    ([key, item]) => (key === "$float" && isWhole(toFloat(String(item)))) || hasWholeFloat(item),
  );
}

/** Return a value with plain prototypes and plain byte strings, which is all that a comparison is to tell apart. */
export function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) {
    return Uint8Array.from(value);
  }
  if (Array.isArray(value)) {
    return value.map(plain);
  }
  if (value instanceof Tensor) {
    return { tensor: plain(value.data), dtype: value.dtype, shape: value.shape };
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

/** `request_id` to `requestId`. */
export function camelCase(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}
