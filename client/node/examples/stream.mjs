/**
 * Prints a text as it comes; Ctrl-C ends it, in the worker too, and what has come stays.
 *
 *     node examples/stream.mjs "Once upon a time" 100
 */

import process from "node:process";

import { CancelledError, connect, MeshError } from "mlx-mesh";

const [prompt = "Once upon a time", maxTokens = "100"] = process.argv.slice(2);

const left = new AbortController();
process.once("SIGINT", () => left.abort());

const mesh = await connect();
try {
  const generation = mesh.generate(prompt, {
    maxTokens: Number(maxTokens),
    timeoutMs: 120_000,
    waitForReady: true,
    signal: left.signal,
  });
  for await (const { text } of generation) {
    process.stdout.write(text);
  }
  const { finishReason, usage } = await generation.final;
  console.error(
    `\n${finishReason} after ${usage.completion} tokens, ${usage.cached} of the prompt's ${usage.prompt} known`,
  );
} catch (error) {
  if (error instanceof CancelledError) {
    console.error("\nleft");
  } else if (error instanceof MeshError) {
    console.error(`${error.code}: ${error.message}`);
    process.exitCode = 1;
  } else {
    throw error;
  }
} finally {
  await mesh.close();
}
