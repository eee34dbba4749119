"""Writes client_scenarios.json: what the Python client's session does, for the sessions of other languages to equal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import scenario_connections  # noqa: F401 - adds its cases to the others
import scenario_streams  # noqa: F401 - likewise
from scenario_cases import CASES
from scenario_runs import RUNS, Run

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    recorders = [*(case() for case in CASES), *(Run(seed).play() for seed in range(RUNS))]
    lines = ",\n".join(json.dumps(each.scenario(), separators=(",", ":")) for each in recorders)
    (folder / "client_scenarios.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
