/**
 * Every bound of the protocol that a client meets. The reasons stand beside the same names in
 * `protocol/mlx_mesh_wire/limits.py`; units come last in the names.
 */

export const PROTOCOL_MAJOR = 1;
export const PROTOCOL_MINOR = 0;
export const HEADER_MAX_BYTES = 4096;
/** Items of one array or map in a header. */
export const HEADER_ITEMS_MAX = 128;
/** Header, body and six buffers. */
export const FRAMES_MAX = 8;
/** All frames of a message together. */
export const MESSAGE_MAX_BYTES = 64 * 1024 * 1024;
/** The one frame of a message where there are keys. */
export const WRAPPED_MAX_BYTES = MESSAGE_MAX_BYTES + 128;
/** Nesting of arrays and maps in a body. */
export const BODY_DEPTH_MAX = 32;
/** Items of all arrays and maps in a body together; a pair of a map is one. */
export const BODY_ITEMS_MAX = 2 ** 21;
/** Dimensions of a tensor. */
export const DIMENSIONS_MAX = 32;
/** The largest integer of a header: what a number holds exactly. */
export const INTEGER_MAX = Number.MAX_SAFE_INTEGER;
export const OP_MAX_CHARS = 64;
export const MODEL_MAX_CHARS = 200;
export const NAME_MAX_CHARS = 64;
export const AFFINITY_MAX_BYTES = 64;
export const TRACEPARENT_MAX_CHARS = 64;
export const SESSION_BYTES = 16;
export const EPOCH_MAX_CHARS = 32;
export const ERROR_MESSAGE_MAX_CHARS = 900;
export const CODE_MAX_CHARS = 32;
export const REASON_MAX_CHARS = 200;
/** A week. */
export const REMAINING_MAX_MS = 7 * 24 * 3600 * 1000;
/** Stream credit. */
export const WINDOW_MAX_CHUNKS = 1024;
/** Messages in one bundle. */
export const BUNDLE_MAX_MESSAGES = 32;
/** Body of a message that goes in a bundle; copying a larger one costs as much as frames of its own. */
export const BUNDLED_MAX_BYTES = 8192;
export const SLOTS_MAX = 4096;
/** Ops or models of one worker, and items of the maps in a header. */
export const LIST_MAX_ITEMS = 64;
/** Jobs named in one HELD. */
export const HELD_MAX_ITEMS = 100;
export const FLAGS_MAX = 65535;
/** Requests of one session that may be outstanding, unless WELCOME says otherwise. */
export const OUTSTANDING_MAX = 64;
