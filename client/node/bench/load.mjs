/**
 * A client process that measures when it is asked to. Each contestant has one of its own, so that no library runs in
 * the leftovers of another.
 *
 *     node load.mjs '{"kind": "mesh", "client": DIR, "address": ENDPOINT}'
 *
 * Each line on its standard input, `{"callers": 64, "seconds": 2}`, has so many callers call without a pause for so
 * long, but once each at least, and is answered by a line of JSON: count, p50, p95 and p99 of the latencies in microseconds, calls_per_s, and
 * client_cpu_us, the CPU time of this process for each call. It leaves at the end of its input.
 */

import console from "node:console";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { createInterface } from "node:readline";

import { CONTESTANTS } from "./contestants.mjs";
import { latencySummary } from "./figures.mjs";

const asked = JSON.parse(process.argv[2]);
const { call, close } = await CONTESTANTS[asked.kind](asked);
for await (const line of createInterface(process.stdin)) {
  console.log(JSON.stringify(await measure(JSON.parse(line))));
}
await close();

async function measure({ callers, seconds }) {
  const latencies = [];
  const cpu = process.cpuUsage();
  const began = performance.now();
  const end = began + seconds * 1000;
  const caller = async () => {
    let now = performance.now();
    do {
      await call();
      const answered = performance.now();
      latencies.push((answered - now) * 1000);
      now = answered;
    } while (now < end);
  };
  await Promise.all(Array.from({ length: callers }, caller));
  const tookS = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const calls = latencies.length;
  return { ...latencySummary(latencies), calls_per_s: calls / tookS, client_cpu_us: (user + system) / calls };
}
