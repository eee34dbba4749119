/**
 * Embeds texts, and tells which of them is nearest to the first.
 *
 *     node examples/embed.mjs "a warm engine" "a hot motor" "a bowl of soup"
 */

import process from "node:process";

import { connect, MeshError } from "mlx-mesh";

const [query = "a warm engine", ...others] = process.argv.slice(2);
const texts = others.length > 0 ? others : ["a hot motor", "a bowl of soup"];

const mesh = await connect(); // MLX_MESH_ENDPOINT, or the broker of the run directory
try {
  await mesh.ready({ ops: "embed", timeoutMs: 30_000 });
  const vectors = await mesh.embed([query, ...texts], { lane: "interactive", timeoutMs: 5000 });
  const [first, ...rest] = vectors.rows;
  console.log(`${vectors.length} vectors of ${vectors.dimension} by ${vectors.model}, from ${vectors.tokens} tokens`);
  const found = rest.map((row, index) => ({ text: texts[index], likeness: dot(first, row) }));
  for (const { text, likeness } of found.sort((a, b) => b.likeness - a.likeness)) {
    console.log(likeness.toFixed(3), text);
  }
} catch (error) {
  if (!(error instanceof MeshError)) {
    throw error;
  }
  console.error(`${error.code}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await mesh.close();
}

/**
 * The cosine, where vectors are one long, as those of most models are.
 *
 * @param {Float32Array | undefined} a
 * @param {Float32Array} b
 */
function dot(a, b) {
  return b.reduce((sum, value, index) => sum + value * (a?.[index] ?? 0), 0);
}
