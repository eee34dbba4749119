/** Loading ZeroMQ, whose native module is not there for every platform. */

import type * as zeromq from "zeromq";

import { InternalError } from "../errors.js";

export type Zeromq = typeof zeromq;

/**
 * ZeroMQ cannot be loaded here. The message says what helps, `cause` is what loading it threw, and `details` has the
 * `platform`, `arch`, `libc` (Linux only, with its version if that is known) and version of `node`.
 */
export class NativeModuleError extends InternalError {}

/**
 * Return the ZeroMQ library.
 *
 * @throws {@link NativeModuleError} it cannot be loaded here.
 */
export async function loadZeromq(): Promise<Zeromq> {
  try {
    return await import("zeromq");
  } catch (cause) {
    throw failure(cause);
  }
}

function failure(cause: unknown): NativeModuleError {
  const { platform, arch, version: node } = process;
  const libc = libcHere();
  const here = `${platform}-${arch}${libc === undefined ? "" : ` with ${libc}`}, Node ${node}`;
  // Behind its first sentence there may be a list of all platforms.
  const [reason = ""] = (cause instanceof Error ? cause.message : String(cause)).split(/\.\s|\.?\n/, 1);
  return new NativeModuleError(`zeromq cannot be loaded on ${here}: ${reason}. ${remedy(cause)}`, {
    cause,
    details: { platform, arch, ...(libc === undefined ? {} : { libc }), node },
  });
}

function remedy(cause: unknown): string {
  if (codeOf(cause) === "ERR_MODULE_NOT_FOUND" || codeOf(cause) === "MODULE_NOT_FOUND") {
    return "It, or a package that it needs, is not installed: run `npm install` where the program's package.json is";
  }
  return (
    "Install it anew on this machine: remove node_modules/zeromq and run `npm install`; a bundler has to leave the " +
    "package as it is. For a platform that it brings no binary for, `npm rebuild zeromq` builds one, which needs CMake, " +
    "Ninja, a C++ compiler, and install scripts to be allowed"
  );
}

function codeOf(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : undefined;
}

/** The C library of Linux, which decides about the binary; undefined on others. */
function libcHere(): string | undefined {
  if (process.platform !== "linux") {
    return undefined;
  }
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const { excludeNetwork } = report;
  report.excludeNetwork = true; // It would look up names of hosts, which may take long.
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } };
  report.excludeNetwork = excludeNetwork ?? false;
  return header?.glibcVersionRuntime === undefined ? "musl" : `glibc ${header.glibcVersionRuntime}`;
}
