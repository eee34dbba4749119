/**
 * Headers: message to bytes and back, every field checked.
 *
 * A header is a MessagePack array: the type code, then the fields in order. Trailing fields that this version does not
 * know are ignored, and so are type codes that it does not know.
 */

import { DecodeError, InvalidRequestError, ProtocolError } from "../errors.js";
import { Family } from "./families.js";
import { type Field, FieldFault } from "./fields.js";
import { LAYOUTS } from "./layouts.js";
import { HEADER_ITEMS_MAX, HEADER_MAX_BYTES } from "./limits.js";
import type { Message, MessageType } from "./messages.js";
import { checkItems, Malformed, Reader } from "./reader.js";
import { Writer } from "./writer.js";

/** A layout as arrays, which are quicker to walk. */
interface Plan {
  readonly type: MessageType;
  readonly code: number;
  readonly names: readonly string[];
  readonly fields: readonly Field<unknown>[];
}

const PLANS = new Map<MessageType, Plan>();
const BY_CODE = new Map<number, Plan>();
for (const [name, { code, fields }] of Object.entries(LAYOUTS)) {
  const type = name as MessageType;
  const plan: Plan = { type, code, names: Object.keys(fields), fields: Object.values(fields) as Field<unknown>[] };
  PLANS.set(type, plan);
  BY_CODE.set(code, plan);
}

const writer = new Writer(2 * HEADER_MAX_BYTES);

/**
 * Return the header frame of a message.
 *
 * @throws {@link InvalidRequestError} naming the field that the protocol cannot carry.
 * @throws {@link ProtocolError} if the header is longer than allowed.
 */
export function encodeHeader(message: Message): Uint8Array {
  const plan = PLANS.get(message.type);
  if (plan === undefined) {
    throw new InvalidRequestError(`a message of type ${message.type} is not known`);
  }
  const { code, names, fields } = plan;
  const values = message as unknown as Readonly<Record<string, unknown>>;
  writer.clear();
  writer.array(fields.length + 1);
  writer.integer(code);
  for (let i = 0; i < fields.length; i++) {
    try {
      fields[i]?.write(writer, values[names[i] ?? ""]);
    } catch (error) {
      throw unwritable(plan, names[i] ?? "", error);
    }
  }
  const header = writer.take();
  if (header.length > HEADER_MAX_BYTES) {
    throw new ProtocolError(`${plan.type} header has ${header.length} bytes, allowed are ${HEADER_MAX_BYTES}`);
  }
  return header;
}

function unwritable(plan: Plan, name: string, cause: unknown): InvalidRequestError {
  const place = placeOf(plan, name);
  const what = cause instanceof FieldFault ? cause.message : "cannot be encoded";
  return new InvalidRequestError(`${place} ${what}`, { details: { field: place }, cause });
}

/**
 * Return the message that a header frame holds, undefined for a type that this version does not know.
 *
 * @throws {@link DecodeError} too long, not MessagePack, not an array, or a field that is missing or out of bounds.
 */
export function decodeHeader(header: Uint8Array): Message | undefined {
  if (header.length > HEADER_MAX_BYTES) {
    throw new DecodeError(`header has ${header.length} bytes, allowed are ${HEADER_MAX_BYTES}`);
  }
  try {
    return decoded(new Reader(header));
  } catch (error) {
    if (error instanceof Malformed) {
      throw new DecodeError(`header is not msgpack: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

function decoded(reader: Reader): Message | undefined {
  if (reader.family() === Family.none) {
    reader.skip(0);
  }
  const items = reader.family() === Family.array ? checkItems(reader.array(), HEADER_ITEMS_MAX) : 0;
  if (items === 0 || reader.family() !== Family.integer) {
    throw new DecodeError("header is not an array that starts with an integer type code");
  }
  const plan = BY_CODE.get(Number(reader.integer()));
  let read = 1;
  let message: Message | undefined;
  if (plan !== undefined) {
    if (items <= plan.fields.length) {
      throw new DecodeError(`${plan.type} has ${items - 1} fields, ${plan.fields.length} are needed`);
    }
    message = readFields(reader, plan);
    read += plan.fields.length;
  }
  for (; read < items; read++) {
    reader.skip(HEADER_ITEMS_MAX);
  }
  if (reader.left) {
    throw new Malformed(`it has ${reader.left} bytes behind its end`);
  }
  return message;
}

function readFields(reader: Reader, plan: Plan): Message {
  const { type, names, fields } = plan;
  const message: Record<string, unknown> = { type };
  for (let i = 0; i < fields.length; i++) {
    const name = names[i] ?? "";
    try {
      message[name] = fields[i]?.read(reader);
    } catch (error) {
      if (error instanceof FieldFault) {
        throw new DecodeError(`${placeOf(plan, name)} ${error.message}`, { cause: error });
      }
      throw error;
    }
  }
  return message as unknown as Message;
}

/** Name a field as the specification does: `Request.remaining_ms`. */
function placeOf({ type }: Plan, name: string): string {
  return `${type}.${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`;
}
