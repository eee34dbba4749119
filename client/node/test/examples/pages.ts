/** The pages about this client: their code and their tables. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { ROOT } from "../live/mesh.js";

export const README = join("client", "node", "README.md");
export const MIGRATION = join("docs", "node.md");

/** Code in a page. */
export interface Block {
  readonly page: string;
  /** Its place in the page, from 1. */
  readonly number: number;
  /** What stands in a comment right before it, as `runnable`; empty without one. */
  readonly mark: string;
  readonly language: string;
  readonly code: string;
}

export function textOf(page: string): string {
  return readFileSync(join(ROOT, page), "utf8");
}

/** Return all fenced code of a page. */
export function blocksOf(page: string): readonly Block[] {
  const found = textOf(page).matchAll(/(?:^<!-- ([a-z ]+) -->\n)?^```(\w*)\n(.*?)^```$/gms);
  return Array.from(found, ([, mark = "", language = "", code = ""], index) => {
    return { page, number: index + 1, mark, language, code };
  });
}

/** Return the cells of the table behind a line, without the table's own header. */
export function rowsBehind(page: string, line: string): readonly (readonly string[])[] {
  const [, rest] = textOf(page).split(`\n${line}\n`);
  const table = /^\|.*?\n(?=[^|])/ms.exec(rest ?? "")?.[0] ?? "";
  const lines = table.trimEnd().split("\n").slice(2);
  return lines.map((row) =>
    row
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

/** Return what a cell has in backquotes. */
export function quoted(cell: string): readonly string[] {
  return Array.from(cell.matchAll(/`([^`]+)`/g), ([, name = ""]) => name);
}
