/** The families of MessagePack, and how the first byte of a value tells its own. */

/** The families of MessagePack; each has several forms. */
export const Family = {
  nil: 0,
  boolean: 1,
  integer: 2,
  float: 3,
  text: 4,
  bytes: 5,
  array: 6,
  map: 7,
  extension: 8,
  none: 9,
} as const;
export type FamilyNumber = (typeof Family)[keyof typeof Family];

/** What the families are called in errors, by number. */
export const FAMILY_NAMES = [
  "nil",
  "bool",
  "int",
  "float",
  "str",
  "bytes",
  "array",
  "map",
  "extension type",
  "byte that msgpack never uses",
] as const;

function familyOf(code: number): FamilyNumber {
  if (code < 0x80 || code >= 0xe0 || (code >= 0xcc && code <= 0xd3)) {
    return Family.integer;
  }
  if (code < 0xc0) {
    return code < 0x90 ? Family.map : code < 0xa0 ? Family.array : Family.text;
  }
  if (code >= 0xd9) {
    return code < 0xdc ? Family.text : code < 0xde ? Family.array : Family.map;
  }
  if (code < 0xc4) {
    return [Family.nil, Family.none, Family.boolean, Family.boolean][code - 0xc0] ?? Family.none;
  }
  return code < 0xc7 ? Family.bytes : code < 0xca || code >= 0xd4 ? Family.extension : Family.float;
}

/** The family of a value by its first byte. */
export const FAMILIES: readonly FamilyNumber[] = Array.from({ length: 256 }, (_, code) => familyOf(code));
