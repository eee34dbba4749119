"""Text through a real mesh: as it comes, cancelled, and over the death of its worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_mesh import AsyncMesh, InvalidRequestError, Mesh
from tests.live import BIN, PATIENCE_S, LiveMesh, live_mesh, until

pytestmark = pytest.mark.slow


def test_text_comes_in_pieces_and_says_how_it_ended(live: LiveMesh) -> None:
    with Mesh(live.endpoint) as mesh, mesh.generate("Once", max_tokens=10) as generation:
        chunks = list(generation)
        assert sum(len(chunk.tokens) for chunk in chunks) == 10
        assert generation.result is not None
        assert "length" == generation.result.finish_reason
        assert "".join(chunk.text for chunk in chunks) == mesh.generate("Once", max_tokens=10).text()


def test_both_clients_give_the_same_text(live: LiveMesh) -> None:
    asked = {"max_tokens": 20, "temperature": 1.0, "seed": 5}
    with Mesh(live.endpoint) as mesh:
        text = mesh.chat([{"role": "user", "content": "hello"}], **asked).text()

    async def again() -> str:
        async with AsyncMesh(live.endpoint) as mesh:
            return await mesh.chat([{"role": "user", "content": "hello"}], **asked).text()

    assert text == asyncio.run(again())


def test_a_bad_argument_is_named(live: LiveMesh) -> None:
    with Mesh(live.endpoint) as mesh:
        with pytest.raises(InvalidRequestError, match="max_tokens is '0'; allowed: an integer from 1"):
            mesh.generate("x", max_tokens=0).text()
        with pytest.raises(InvalidRequestError, match="temprature is no keyword"):
            mesh.generate("x", temprature=1)  # type: ignore[call-arg]


def test_leaving_early_frees_the_row(live: LiveMesh) -> None:
    with Mesh(live.endpoint) as mesh:
        with mesh.generate("Once", max_tokens=1500) as generation:
            next(generation)
        until(lambda: all(not worker["in_flight"] for worker in mesh.status()["workers"]), "the row to be free")


GONE = """
import sys
from mlx_mesh import Mesh
with Mesh(sys.argv[1]) as mesh:
    for chunk in mesh.generate("Gone", max_tokens=1500, timeout=300, logit_bias={1: -100}):
        print(chunk.text, flush=True)
"""


def test_a_client_that_is_killed_in_mid_stream_leaves_the_others_served_and_its_row_free(live: LiveMesh) -> None:
    asked = {"max_tokens": 300, "temperature": 1.0, "seed": 4, "logit_bias": {1: -100}}
    with Mesh(live.endpoint) as mesh:
        alone = mesh.generate("Beside it", timeout=120, **asked).text()  # type: ignore[arg-type]
        client = subprocess.Popen(
            [sys.executable, "-c", GONE, live.endpoint], env=live.env, stdout=subprocess.PIPE, bufsize=0
        )
        assert client.stdout is not None
        client.stdout.readline()
        beside = mesh.generate("Beside it", timeout=120, **asked)  # type: ignore[arg-type]
        first = next(beside)
        client.kill()
        client.wait()
        client.stdout.close()
        assert alone == first.text + beside.text()
        until(lambda: all(not worker["in_flight"] for worker in mesh.status()["workers"]), "the row to be free")


def test_streams_go_on_over_the_death_of_their_worker_with_the_same_text(llama: Path) -> None:
    with live_mesh() as own:
        own.broker()
        workers = [own.worker("generate", f"g{n}", "--model", str(llama)) for n in range(2)]

        async def main() -> None:
            async with AsyncMesh(own.endpoint) as mesh:
                await mesh.ready(["generate"], timeout=2 * PATIENCE_S)
                async with asyncio.timeout(2 * PATIENCE_S):
                    while len([w for w in (await mesh.status())["workers"] if w["state"] == "ready"]) < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                asked = [{"max_tokens": 120, "temperature": n % 2 * 1.0, "seed": n} for n in range(16)]

                begun: set[int] = set()

                async def text(n: int) -> str:
                    told = mesh.generate(f"stream {n} of many", timeout=120, **asked[n])  # type: ignore[arg-type]
                    pieces = []
                    async for chunk in told:
                        pieces.append(chunk.text)
                        begun.add(n)
                    return "".join(pieces)

                calm = await asyncio.gather(*map(text, range(16)))
                begun.clear()
                tasks = [asyncio.create_task(text(n)) for n in range(16)]
                async with asyncio.timeout(2 * PATIENCE_S):
                    while len(begun) < 16:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                os.kill(workers[0].pid, signal.SIGKILL)
                assert calm == await asyncio.gather(*tasks)

        asyncio.run(main())


def test_the_command_shows_the_text(live: LiveMesh) -> None:
    with Mesh(live.endpoint) as mesh:
        text = mesh.generate("Once", max_tokens=10).text()
    done = subprocess.run(
        [BIN / "mlx-mesh", "generate", "--max-tokens", "10", "Once"], env=live.env, capture_output=True, check=True
    )
    assert text + "\n" == done.stdout.decode()


def test_the_command_holds_a_conversation(live: LiveMesh) -> None:
    done = subprocess.run(
        [BIN / "mlx-mesh", "chat", "--max-tokens", "6"],
        input=b"hello\nand then\n", env=live.env, capture_output=True, check=True,
    )  # fmt: skip
    with Mesh(live.endpoint) as mesh:
        first = [{"role": "user", "content": "hello"}]
        answer = mesh.chat(first, max_tokens=6).text()
        second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "and then"}]
        assert f"{answer}\n{mesh.chat(second, max_tokens=6).text()}\n" == done.stdout.decode()
