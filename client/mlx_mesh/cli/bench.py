"""``mlx-mesh bench``: how fast the running mesh answers, at a given number of requests in flight."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, seconds
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.output import EXIT_FAILED, EXIT_OK, count, say
from mlx_mesh.cli.table import milliseconds, percentile, table
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    import argparse

    from mlx_mesh import AsyncMesh

WARM_UP_REQUESTS = 20
CONCURRENCY_MAX = 64
"""What one client may have outstanding."""

SIZE_MAX = 1024**2
"""The longest text that is embedded."""

MORE = """\
examples:
  mlx-mesh bench                       8 requests in flight, a text of 200 characters in each
  mlx-mesh bench -c 1                  the latency of a single caller
  mlx-mesh bench --op echo             the mesh alone; needs a worker: mlx-mesh-worker --engine echo --name echo-0

exit status: 0 done, 1 a request failed"""

SENTENCE = "The broker keeps a request until a worker has a free slot, so that order and deadline stay true. "


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench``."""
    parser = add_parser(
        commands,
        "bench",
        summary="measure the running mesh",
        about="Measure how fast the running mesh answers requests of one kind, none of which a cache can answer.",
        more=MORE,
    )
    parser.add_argument("--op", choices=("embed", "echo"), default="embed", help="what to call (default: embed)")
    parser.add_argument(
        "-c", "--concurrency", type=int, default=8, metavar="N", help="requests in flight, 1 to 64 (default: 8)"
    )
    parser.add_argument(
        "-t", "--seconds", type=seconds, default=5.0, metavar="SECONDS", help="how long to measure (default: 5)"
    )
    parser.add_argument(
        "--size", type=int, default=200, metavar="N", help="characters of a text, bytes of an echo (default: 200)"
    )
    parser.add_argument(
        "--lane", choices=LANE_NAMES, default="interactive", help="interactive, standard or bulk (default: interactive)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    if not 1 <= args.concurrency <= CONCURRENCY_MAX:
        args.usage_error(f"--concurrency: {args.concurrency} is not allowed; allowed: 1 to {CONCURRENCY_MAX}")
    if not 1 <= args.size <= SIZE_MAX:
        args.usage_error(f"--size: {args.size} is not allowed; allowed: 1 to {SIZE_MAX}")
    import asyncio

    require_broker()
    latencies, errors, seconds = asyncio.run(_measure(args))
    figures = _figures(args, sorted(latencies), errors, seconds)
    say(json.dumps(figures) if args.json else _render(figures))
    return EXIT_FAILED if errors else EXIT_OK


async def _measure(args: argparse.Namespace) -> tuple[list[float], Counter[str], float]:
    import asyncio

    from mlx_mesh import AsyncMesh

    latencies: list[float] = []
    errors: Counter[str] = Counter()
    numbers = itertools.count()
    salt = secrets.token_hex(4)

    async def caller(mesh: AsyncMesh, until: float) -> None:
        started = time.perf_counter()
        while True:  # Once at least, however late it gets to it.
            try:
                await mesh.call(args.op, _body(args, salt, next(numbers)), lane=args.lane, timeout=60.0)
            except MeshError as error:
                errors[error.code] += 1
            else:
                latencies.append(time.perf_counter() - started)
            started = time.perf_counter()
            if started >= until:
                return

    async with AsyncMesh() as mesh:
        for _ in range(WARM_UP_REQUESTS):
            await mesh.call(args.op, _body(args, salt, next(numbers)), lane=args.lane, timeout=60.0)
        started = time.perf_counter()
        await asyncio.gather(*(caller(mesh, started + args.seconds) for _ in range(args.concurrency)))
        return latencies, errors, time.perf_counter() - started


def _body(args: argparse.Namespace, salt: str, number: int) -> Any:
    """Return a body that was never sent before, so that no cache answers."""
    mark = f"{salt} {number} "
    if args.op == "echo":
        return mark.encode().ljust(args.size, b".")
    return {"texts": [(mark + SENTENCE * (args.size // len(SENTENCE) + 1))[: max(args.size, len(mark))]]}


def _figures(args: argparse.Namespace, ordered: list[float], errors: Counter[str], seconds: float) -> dict[str, Any]:
    shares = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "max_s": 1.0}
    return {
        "op": args.op,
        "concurrency": args.concurrency,
        "seconds": seconds,
        "requests": len(ordered),
        "requests_per_s": len(ordered) / seconds,
        **{name: percentile(ordered, share) for name, share in shares.items()},
        "errors": dict(errors),
    }


def _render(figures: dict[str, Any]) -> str:
    names = ("p50", "p95", "p99", "max")
    row = [
        figures["op"],
        figures["concurrency"],
        f"{figures['requests']:,}",
        f"{figures['requests_per_s']:,.1f}",
        *(milliseconds(figures[f"{name}_s"]) for name in names),
    ]
    header = ("OP", "IN-FLIGHT", "REQUESTS", "REQUESTS/S", *(name.upper() for name in names))
    text = table(header, [row], right=" ".join(header[1:]))
    lost = "".join(f"\n{count(number, 'request')} failed with {code}" for code, number in figures["errors"].items())
    return text + lost
