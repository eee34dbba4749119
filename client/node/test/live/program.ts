/** Programs with a client, each in a process of its own. */

import { spawn } from "node:child_process";
import { join } from "node:path";

import { PATIENCE_MS } from "./mesh.js";

const INDEX = join(import.meta.dirname, "..", "..", "src", "index.js");

/** How a program ended, null if it had to be killed, and all that it said. */
export interface Ended {
  readonly status: number | null;
  readonly output: string;
}

/** Run a program that has the client as `connect`; one that does not end by itself is killed, and fails. */
export function run(endpoint: string, program: string): Promise<Ended> {
  const text = `import { connect } from ${JSON.stringify(INDEX)}; const endpoint = ${JSON.stringify(endpoint)};\n${program}`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", text], { stdio: ["ignore", "pipe", "pipe"] });
  const killer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data: Buffer) => (output += data.toString()));
  }
  return new Promise((resolve) => {
    child.on("close", (status) => {
      clearTimeout(killer);
      resolve({ status, output });
    });
  });
}
