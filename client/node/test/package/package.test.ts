import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { dirname, join, normalize } from "node:path";

import { LiveMesh, PATIENCE_MS } from "../live/mesh.js";
import { filesOf, Packed, ROOT, run } from "./packed.js";

const PROGRAM = `
import { connect, MeshError } from "mlx-mesh";
const mesh = await connect({ endpoint: process.argv[2] });
console.log(await mesh.call("echo", "é"));
for await (const item of mesh.stream("echo", [1, 2])) console.log(item);
await mesh.call("nobody.serves", 1).catch((error) => console.log(error instanceof MeshError, error.code));
await mesh.close();
`;

const COMMONJS_PROGRAM = `
import("mlx-mesh").then(async ({ connect }) => {
  const mesh = await connect({ endpoint: process.argv[2] });
  console.log(await mesh.call("echo", "from CommonJS"));
  await mesh.close();
});
`;

const TYPED_COMMONJS = `
import type { Mesh } from "mlx-mesh" with { "resolution-mode": "import" };
export async function length(text: string): Promise<number> {
  const { connect } = await import("mlx-mesh");
  const mesh: Mesh = await connect();
  const [row] = await mesh.embed(text);
  return row?.length ?? 0;
}
`;

/**
 * How TypeScript finds packages: as Node does, and as bundlers do. Checking the declarations themselves takes as long
 * as the rest, so that is done once.
 */
const RESOLUTIONS = [
  { name: "node16", files: ["use.ts", "use.cts"], options: { module: "node16", skipLibCheck: false } },
  { name: "bundler", files: ["use.ts"], options: { module: "esnext", skipLibCheck: true } },
];

interface Manifest {
  readonly exports: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly dependencies: Readonly<Record<string, string>>;
}

interface SourceMap {
  readonly sources: readonly string[];
  readonly sourcesContent: readonly string[];
}

describe("the package", { timeout: 4 * PATIENCE_MS }, () => {
  const packed = new Packed();

  before(async () => {
    await packed.pack();
  });

  after(() => {
    packed[Symbol.dispose]();
  });

  it("holds what the sources are compiled to, and nothing else of the checkout", () => {
    const built = filesOf(join(ROOT, "src")).flatMap((path) =>
      [".d.ts", ".js", ".js.map"].map((ending) => join("dist", path.replace(/\.ts$/, ending))),
    );
    assert.deepEqual([...built, "LICENSE", "README.md", "package.json"].sort(), packed.files());
  });

  it("has source maps that hold their own source and lead nowhere else", () => {
    for (const path of packed.files().filter((each) => each.endsWith(".map"))) {
      const { sources, sourcesContent } = JSON.parse(packed.read(path)) as SourceMap;
      const own = join("src", path.slice("dist/".length).replace(/\.js\.map$/, ".ts"));
      assert.deepEqual(
        [own],
        sources.map((source) => normalize(join(dirname(path), source))),
      );
      assert.deepEqual([readFileSync(join(ROOT, own), "utf8")], sourcesContent);
    }
  });

  it("tells nothing of the machine that it was made on", () => {
    for (const path of packed.files()) {
      assert.ok(!packed.read(path).includes(ROOT), path);
    }
  });

  it("has what its manifest leads to, and one dependency", () => {
    const { exports, dependencies } = JSON.parse(packed.read("package.json")) as Manifest;
    for (const target of Object.values(exports).flatMap((each) => Object.values(each))) {
      assert.ok(packed.files().includes(normalize(target)), target);
    }
    assert.deepEqual(["zeromq"], Object.keys(dependencies));
  });

  it("comes under the licence of the whole", () => {
    assert.equal(readFileSync(join(ROOT, "..", "..", "LICENSE"), "utf8"), packed.read("LICENSE"));
  });

  it("is locked without a word on where its dependencies come from", () => {
    const lock = readFileSync(join(ROOT, "package-lock.json"), "utf8");
    assert.match(lock, /"integrity": "sha512-/);
    assert.doesNotMatch(lock, /"resolved"/);
  });

  describe("installed in a project", () => {
    let dir: string;

    let note: string | undefined;

    before(async () => {
      ({ dir, note } = await packed.consumer());
      writeFileSync(join(dir, "use.ts"), readFileSync(join(ROOT, "test", "types", "public.ts")));
      writeFileSync(join(dir, "use.cts"), TYPED_COMMONJS);
      writeFileSync(join(dir, "program.js"), PROGRAM);
      writeFileSync(join(dir, "program.cjs"), COMMONJS_PROGRAM);
    });

    for (const { name, files, options } of RESOLUTIONS) {
      it(`has types for TypeScript that resolves as ${name}`, async () => {
        const common = { strict: true, noEmit: true, target: "es2022", lib: ["es2022"], types: ["node"] };
        const compilerOptions = { ...common, ...options, moduleResolution: name };
        const config = join(dir, `tsconfig.${name}.json`);
        writeFileSync(config, JSON.stringify({ compilerOptions, files }));
        const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
        assert.deepEqual({ status: 0, output: "" }, await run(dir, process.execPath, tsc, "-p", config));
      });
    }

    it("calls a broker, from modules and from CommonJS", async (context) => {
      if (note !== undefined) {
        context.diagnostic(note);
      }
      await using live = new LiveMesh();
      live.broker();
      live.worker("echo", "echo");
      await live.ready("echo");
      assert.deepEqual(
        { status: 0, output: "é\n1\n2\ntrue NO_WORKER\n" },
        await run(dir, process.execPath, "program.js", live.endpoint),
      );
      assert.deepEqual(
        { status: 0, output: "from CommonJS\n" },
        await run(dir, process.execPath, "program.cjs", live.endpoint),
      );
    });
  });
});
