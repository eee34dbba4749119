/** The kinds of fields that headers have: how each is read, written and bounded. */

import { INTEGER_MAX, LIST_MAX_ITEMS, SESSION_BYTES } from "./limits.js";
import type { HeldJob } from "./others.js";
import { FAMILY_NAMES, Family, type FamilyNumber } from "./families.js";
import type { Reader } from "./reader.js";
import type { Writer } from "./writer.js";

/** One kind of field. Both ways a value that does not fit is refused with {@link FieldFault}. */
export interface Field<T> {
  read(reader: Reader): T;
  write(writer: Writer, value: T): void;
}

/** A field does not fit; the message goes on from its name. */
export class FieldFault extends Error {}

function expect(reader: Reader, wanted: FamilyNumber): void {
  const given = reader.family();
  if (given !== wanted) {
    throw new FieldFault(`holds a ${FAMILY_NAMES[given]}, must be a ${FAMILY_NAMES[wanted]}`);
  }
}

function checkLength(length: number, low: number, high: number): void {
  if (length < low || length > high) {
    throw new FieldFault(`has length ${length}, allowed are ${low} to ${high}`);
  }
}

/** An integer; both bounds are included. */
export function int(low: number, high: number): Field<number> {
  function check(value: number | bigint): number {
    if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
      throw new FieldFault(`is ${String(value)}, allowed are ${low} to ${high}`);
    }
    return value;
  }
  return {
    read(reader) {
      expect(reader, Family.integer);
      return check(reader.integer());
    },
    write(writer, value) {
      writer.integer(check(value));
    },
  };
}

/** A string; its length is counted in characters, not in the halves of surrogate pairs. */
export function text(low: number, high: number): Field<string> {
  function check(value: string): string {
    if (value.length < low || value.length > high) {
      checkLength(Array.from(value.slice(0, 2 * high + 2)).length, low, high);
    }
    return value;
  }
  return {
    read(reader) {
      expect(reader, Family.text);
      return check(reader.text());
    },
    write(writer, value) {
      if (typeof value !== "string" || !value.isWellFormed()) {
        throw new FieldFault("is not a string of whole characters, it may have a lone surrogate");
      }
      writer.text(check(value));
    },
  };
}

/** A byte string. */
export function bytes(low: number, high: number): Field<Uint8Array> {
  function check(value: Uint8Array): Uint8Array {
    checkLength(value.length, low, high);
    return value;
  }
  return {
    read(reader) {
      expect(reader, Family.bytes);
      return check(reader.bytes());
    },
    write(writer, value) {
      writer.bytes(check(value));
    },
  };
}

/** A boolean. */
export const bool: Field<boolean> = {
  read(reader) {
    expect(reader, Family.boolean);
    return reader.simple() === true;
  },
  write(writer, value) {
    writer.boolean(value);
  },
};

/** An array of values of one kind. */
export function list<T>(item: Field<T>, low: number, high: number): Field<readonly T[]> {
  return {
    read(reader) {
      expect(reader, Family.array);
      const length = reader.array();
      checkLength(length, low, high);
      return Array.from({ length }, () => item.read(reader));
    },
    write(writer, values) {
      checkLength(values.length, low, high);
      writer.array(values.length);
      for (const value of values) {
        item.write(writer, value);
      }
    },
  };
}

/** A map from strings to values of one kind. Objects that are read have no prototype, so any key is harmless. */
export function map<T>(item: Field<T>): Field<Readonly<Record<string, T>>> {
  return {
    read(reader) {
      expect(reader, Family.map);
      const length = reader.map();
      checkLength(length, 0, LIST_MAX_ITEMS);
      const values = Object.create(null) as Record<string, T>;
      for (let i = 0; i < length; i++) {
        const key = anyText.read(reader);
        values[key] = item.read(reader);
      }
      return values;
    },
    write(writer, values) {
      const entries = Object.entries(values);
      checkLength(entries.length, 0, LIST_MAX_ITEMS);
      writer.map(entries.length);
      for (const [key, value] of entries) {
        anyText.write(writer, key);
        item.write(writer, value);
      }
    },
  };
}

/** A count from 0, without a narrower bound. */
export const count = int(0, INTEGER_MAX);
/** An id, or a number that begins with 1. */
export const id = int(1, INTEGER_MAX);
/** A string without a bound of its own: that of the header holds. */
export const anyText = text(0, Number.MAX_SAFE_INTEGER);
/** A session or an instance. */
export const session = bytes(SESSION_BYTES, SESSION_BYTES);

/** An entry of HELD. */
export const heldJob: Field<HeldJob> = {
  read(reader) {
    expect(reader, Family.array);
    const length = reader.array();
    checkLength(length, 3, 3);
    return [session.read(reader), id.read(reader), id.read(reader)];
  },
  write(writer, [ofSession, requestId, attempt]) {
    writer.array(3);
    session.write(writer, ofSession);
    id.write(writer, requestId);
    id.write(writer, attempt);
  },
};
