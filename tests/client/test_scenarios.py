"""The scenarios that sessions of other languages are held to are what the session of now does, and say enough."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
SCENARIOS = json.loads((VECTORS / "client_scenarios.json").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = [step for scenario in SCENARIOS for step in scenario["steps"]]


def test_the_file_is_what_the_session_of_now_does(tmp_path: Path) -> None:
    subprocess.run([sys.executable, VECTORS / "make_scenarios.py", tmp_path], check=True, timeout=60)
    made, kept = ((folder / "client_scenarios.json").read_text(encoding="utf-8") for folder in (tmp_path, VECTORS))
    different = [
        one["name"] for one, other in zip(json.loads(made), SCENARIOS, strict=True) if one != other
    ]  # the names tell more than the whole file would
    assert [] == different, "run protocol/vectors/make_scenarios.py, and change the other clients too"
    assert made == kept


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    names = {scenario["name"] for scenario in SCENARIOS}
    assert len(SCENARIOS) == len(names)
    assert len(SCENARIOS) >= 150


def test_all_that_a_client_says_hears_and_tells_occurs_often() -> None:
    said = Counter(message[0] for step in STEPS for message in step.get("sends", ()))
    heard = Counter(step["message"][0] for step in STEPS if "message" in step)
    told = Counter(tell[1] for step in STEPS for tell in step.get("tells", ()))
    done = Counter(step["do"] for step in STEPS)
    state = Counter(key for step in STEPS for key in step.get("state", ()))
    assert {"Hello", "Request", "Status", "Cancel", "Credit", "Ping", "Pong", "Bye"} == said.keys()
    assert {"Welcome", "Final", "Chunk", "Error", "Again", "Reset", "Ping"} <= heard.keys()
    assert {"piece", "final", "error"} == told.keys()
    assert {"connected", "start", "cancel", "read", "hear", "tick", "close"} == done.keys()
    assert {"size", "welcomed", "reconnect", "epoch", "next", "moved"} == state.keys()
    for counter in (said, heard, told, done, state):
        assert min(counter.values()) >= 10, counter
