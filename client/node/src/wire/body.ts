/**
 * Bodies: any plain value to frames and back.
 *
 * A body is one MessagePack value made of nil, booleans, integers, floats, strings, byte strings, arrays and maps with
 * string keys. Arrays of numbers travel beside it as raw buffers: a {@link Tensor} in the value becomes extension
 * type 1 with `[index, dtype, shape]`, and its bytes become the frame with that index after the body.
 */

export { packBody } from "./pack.js";
export { type Dtype, type NumberArray, Tensor } from "./tensor.js";
export { unpackBody } from "./unpack.js";
