/** Percentiles, as `benchmarks/figures.py` takes them. */

/** Return the count of samples and what 50, 95 and 99 % of them do not exceed, in the unit of the samples. */
export function latencySummary(samples) {
  const ordered = Float64Array.from(samples).sort();
  const at = (share) => ordered[Math.max(0, Math.ceil(share * ordered.length) - 1)];
  return { count: ordered.length, p50: at(0.5), p95: at(0.95), p99: at(0.99) };
}
