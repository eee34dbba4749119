"""The documentation is true: links resolve, names exist, tables are complete, examples run."""

from __future__ import annotations

import argparse
import importlib
import json
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mlx_mesh.cli import output
from mlx_mesh_broker import main as broker_main
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.lifecycle import TRANSITIONS, WorkerState
from mlx_mesh_broker.exporter import collect
from mlx_mesh_broker.settings import BrokerSettings
from mlx_mesh_broker.snapshot import Snapshot
from mlx_mesh_wire.errors import ERROR_CLASSES
from mlx_mesh_worker import main as worker_main
from mlx_mesh_worker import shell as worker_shell
from mlx_mesh_worker.engines.generate.settings import GenerateSettings
from mlx_mesh_worker.guard import main as guard_main
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.settings import WorkerSettings
from tests.live import LiveMesh, live_mesh

cli_main = importlib.import_module("mlx_mesh.cli.main")  # the package has a function of that name
ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "protocol").rglob("*.md"),
        ROOT / "client/node/README.md",
    ]
    if ".venv" not in path.parts
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
DELIVERY = (ROOT / "docs/delivery.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
DEPLOY = [ROOT / "deploy/alerts.yml", ROOT / "deploy/grafana/mlx-mesh.json"]
PROGRAMS = {
    "mlx-mesh-broker": (BrokerSettings,),
    "mlx-mesh-worker": (WorkerSettings, GenerateSettings),
    "mlx-mesh-guard": (GuardSettings,),
}

PROMISE = """\
- An accepted request gets **exactly one** terminal answer (result, typed error, or the client's own typed timeout) by
  its deadline. Nothing is dropped in silence, nothing hangs.
- A worker that dies, stalls, or is recycled costs no caller an error while another can do the work: unanswered work is
  run again elsewhere; a stream that had begun goes on from its last token, with the same tokens as if nothing
  had happened. `at_most_once=True` turns re-running off for work with side effects.
- A request that kills two workers is quarantined with `POISON_REQUEST`; it does not kill a third.
- Overload is refused at once with `retry_after_ms`, never queued without bound. Expired or cancelled work is not computed.
- The queue is in memory. A broker restart is seen by clients as a new epoch; they resend what is outstanding under the
  same request ids, and workers do not run twice what they already hold.
"""  # noqa: E501  word for word


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table behind a heading, without the table's own header."""
    table = page.partition(f"\n{heading}\n")[2].split("\n|", 1)[1].split("\n\n", 1)[0]
    lines = ("|" + table).splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def sources(*folders: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_the_promise_stands_there_word_for_word() -> None:
    assert PROMISE in DELIVERY


def test_the_first_screen_has_the_two_commands() -> None:
    top = "\n".join(README.splitlines()[:25])
    assert "make demo" in top
    assert "make test" in top


def test_parts_that_are_made_from_code_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_every_turn_of_a_worker_is_drawn() -> None:
    made = OPERATIONS.partition("<!-- made from code: life of a worker -->")[2]
    drawn = made.partition("```mermaid")[2].partition("```")[0]
    for state, turns in TRANSITIONS.items():
        for turn, target in turns.items():
            edge = rf"({state}|connected) --> {target}: .*\b{turn}\b"
            assert target is state or re.search(edge, drawn), f"{state} --{turn}--> {target} is missing"
    assert {"loading"} == set(re.findall(r"\[\*\] --> (\w+)", drawn))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


def command_lines(page: Path) -> list[str]:
    """Return what the page shows as commands: indented lines, and code within text."""
    text = page.read_text(encoding="utf-8")
    without_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without_blocks)]
    lines = re.findall(r"^    (.+)$", without_blocks, re.MULTILINE) + inline
    return [line.partition("  #")[0].replace("\\|", "|") for line in lines]


def subparsers() -> dict[str, argparse.ArgumentParser]:
    actions = cli_main.build_parser()._actions
    return dict(next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices)


def flags_of(command: list[str]) -> tuple[set[str], set[str]]:
    """Return the flags that a command line uses and those that its program has."""
    used = {word.partition("=")[0] for word in command[1:] if word.startswith("-") and word != "-"}
    if command[0] in PROGRAMS:
        own = {"--" + field.name.replace("_", "-") for cls in PROGRAMS[command[0]] for field in fields(cls)}
        return used, {"--help", *own}
    own = {"--version", "--help"}
    if len(command) > 1 and not command[1].startswith("-"):
        parser = subparsers()[command[1]]
        own = set(parser._option_string_actions)
        for inner in (a for a in parser._actions if isinstance(a, argparse._SubParsersAction)):
            own |= set(inner.choices[command[2]]._option_string_actions) if len(command) > 2 else set()
    return used, own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_flags(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in command_lines(page):
        if found := re.match(r"make ([a-z]+)", line):
            assert found[1] in targets, line
        for part in re.split(r"\s*(?:[|;<]|&&)\s*", line):
            if re.match(r"mlx-mesh(-broker|-worker|-guard)?( |$)", part):
                used, own = flags_of([word for word in shlex.split(part) if word != "..."])
                assert used <= own, f"{line}: {', '.join(used - own)}"


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(KeyError):
        flags_of(["mlx-mesh", "levitate"])
    used, own = flags_of(["mlx-mesh-worker", "--nope"])
    assert not used <= own


def metrics() -> set[str]:
    core = Broker(BrokerSettings(), "epoch", 0.0)
    core.metrics.op(("op", "model"))
    names = set()
    for family in collect(Snapshot(core.metrics, core.status(1.0), {})):
        names.add(family.name + "_total" if family.type == "counter" else family.name)
    return names


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    table = [name for row in rows(OPERATIONS, "## Metrics") for name in quoted(row[0])]
    assert sorted(metrics()) == sorted(table)


def test_labels_are_those_of_the_metrics() -> None:
    core = Broker(BrokerSettings(), "epoch", 0.0)
    families = {f.name: f for f in collect(Snapshot(core.metrics, core.status(1.0), {}))}
    for row in rows(OPERATIONS, "## Metrics"):
        family = families[quoted(row[0])[0].removesuffix("_total")]
        assert list(getattr(family, "_labelnames", ())) == quoted(row[1]), row[0]


@pytest.mark.parametrize("path", [*PAGES, *DEPLOY], ids=lambda path: path.name)
def test_metrics_that_are_named_exist(path: Path) -> None:
    packages = {"mlx_mesh_wire", "mlx_mesh_broker", "mlx_mesh_worker", "mlx_mesh"}
    text = re.sub(r"mlx_mesh_(wire|broker|worker)(?=[/.` \]]|$)", "", path.read_text(encoding="utf-8"))
    used = {name.removesuffix("_bucket") for name in re.findall(r"\bmlx_mesh_[a-z0-9_]+", text)}
    assert used - packages <= metrics()


def test_every_event_of_the_broker_is_documented() -> None:
    code = sources("broker")
    counted = set(re.findall(r'counts\["([a-z_]+)"', code)) | {"worker_complaints"}
    page = OPERATIONS.partition("An event has a series")[2]
    table = [name for row in rows("\n## Events\n" + page, "## Events") for name in quoted(row[0])]
    assert sorted(counted) == sorted(table)


def test_every_log_event_is_documented() -> None:
    code = sources("broker", "worker")
    # The guard's policy does not log: it says a line, which its shell logs. The level may be worked out.
    said = r"say\(state, now, [^,]+,|Complaints\(state,"
    logged = set(re.findall(rf'(?:log\(\s*"[a-z]+",|{said})\s*"([a-z_]+)"', code))
    assert len(re.findall(said, code)) == len(re.findall(r"(?<!def )\bsay\(|Complaints\(state,", code))
    changes = {f"worker_{state}" for state in WorkerState}
    table = {name for row in rows(OPERATIONS, "## Logs") for name in quoted(row[0])}
    assert logged | changes == table


def test_every_error_is_documented_as_it_is() -> None:
    table = {quoted(row[0])[0]: (quoted(row[1])[0], row[2]) for row in rows(DELIVERY, "## Errors")}
    code = {name: (cls.__name__, "yes" if cls.retryable_by_default else "no") for name, cls in ERROR_CLASSES.items()}
    assert code == table


def test_every_exit_status_is_documented() -> None:
    modules = {
        "mlx-mesh-broker": [broker_main],
        "mlx-mesh-worker": [worker_main, worker_shell],
        "mlx-mesh-guard": [guard_main],
        "mlx-mesh": [cli_main, output],
    }
    table: dict[str, set[int]] = {}
    for row in rows(OPERATIONS, "## Exit statuses"):
        table.setdefault(quoted(row[0])[0], set()).add(int(row[1]))
    for program, where in modules.items():
        known = {value for module in where for name, value in vars(module).items() if name.startswith("EXIT_")}
        # 0 is success; 1 is what Python itself exits with after a defect.
        assert known | {0, 1} == table[program], program


def variables() -> set[str]:
    names = {"RUN_DIR", "ENDPOINT", "CONFIG", "KEYS", "KEYS_DIR", "CONTROL", "CONTROL_KEYS"}
    sections = {
        "BROKER": BrokerSettings,
        "WORKER": WorkerSettings,
        "GENERATE": GenerateSettings,
        "GUARD": GuardSettings,
    }
    for section, cls in sections.items():
        names |= {f"{section}_{field.name.upper()}" for field in fields(cls)}
    return {"MLX_MESH_" + name for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_environment_variables_that_are_named_exist(page: Path) -> None:
    text = re.sub(
        r"MLX_MESH_(BROKER|WORKER|GENERATE|GUARD|<[A-Z]+>)?_?(\.\.\.|<[A-Z]+>|\*)", "", page.read_text(encoding="utf-8")
    )
    assert set(re.findall(r"MLX_MESH_[A-Z_]+", text)) <= variables()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_codes_that_are_named_exist(page: Path) -> None:
    known = {field.name for classes in PROGRAMS.values() for cls in classes for field in fields(cls)}
    code = sources("protocol", "broker", "worker", "client") + (ROOT / "supervisord.conf").read_text(encoding="utf-8")
    for name in quoted(page.read_text(encoding="utf-8").replace("\n", " ")):
        if re.fullmatch(r"[a-z_]+_(s|max|hwm|requests|bytes|port)", name):
            assert name in known or name in code, name
        if re.fullmatch(r"[A-Z][A-Z_]*_[A-Z_]+", name):
            assert name in code or name == "LD_PRELOAD", name


def test_alerts_stand_in_the_runbook_as_they_are_deployed() -> None:
    rules = yaml.safe_load(DEPLOY[0].read_text(encoding="utf-8"))["groups"][0]["rules"]
    deployed = {rule["alert"]: " ".join(rule["expr"].split()) for rule in rules}
    table = {row[0]: quoted(row[1])[0].replace("\\|", "|") for row in rows(OPERATIONS, "### Alerts")}
    assert deployed == table


def test_alerts_of_the_guard_wait_before_they_ring() -> None:
    rules = yaml.safe_load(DEPLOY[0].read_text(encoding="utf-8"))["groups"][0]["rules"]
    names = {"GuardSilent", "MemoryTight", "Paused", "Recycles", "Leak", "GivenUp", "GuardSourceFails"}
    assert {f"Mesh{name}" for name in names} <= {rule["alert"] for rule in rules if rule.get("for")}
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] in {"page", "warn"} for rule in rules)


def test_the_dashboard_draws_the_thresholds_that_a_guard_has() -> None:
    panels = json.loads(DEPLOY[1].read_text(encoding="utf-8"))["panels"]
    pressure = next(p for p in panels if p["targets"][0]["expr"] == "mlx_mesh_memory_pressure_ratio")
    steps = [step["value"] for step in pressure["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    told = GuardSettings()
    assert [None, told.trim_at, told.pause_at, told.recycle_at, told.stop_at] == steps


def test_launchd_keeps_supervisord_running_in_the_foreground() -> None:
    job = plistlib.loads((ROOT / "deploy/launchd/mlx-mesh.plist").read_bytes())
    assert (True, True) == (job["RunAtLoad"], job["KeepAlive"])
    assert ["--nodaemon", "-c"] == job["ProgramArguments"][1:3]
    assert job["ExitTimeOut"] > stop_waits()


def test_systemd_takes_the_unit_and_keeps_supervisord_running(tmp_path: Path) -> None:
    text = (ROOT / "deploy/systemd/mlx-mesh.service").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert ("always", "continue", "mixed") == (lines["Restart"], lines["OOMPolicy"], lines["KillMode"])
    assert "--nodaemon" in lines["ExecStart"]
    assert int(lines["TimeoutStopSec"]) > stop_waits()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here; the rest has been checked")
    unit = tmp_path / "mlx-mesh.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def stop_waits() -> int:
    """Return how long supervisord may take to stop its programs: those of one priority together, one after another."""
    conf = RawConfigParser(inline_comment_prefixes=(" ;",))
    conf.read(ROOT / "supervisord.conf", encoding="utf-8")
    programs = [section for section in conf.sections() if section.startswith(("program:", "eventlistener:"))]
    longest: dict[int, int] = {}
    for section in programs:
        priority = conf.getint(section, "priority")
        longest[priority] = max(longest.get(priority, 0), conf.getint(section, "stopwaitsecs"))
    return sum(longest.values())


def test_the_dashboard_has_a_query_and_a_place_for_each_panel() -> None:
    panels = json.loads(DEPLOY[1].read_text(encoding="utf-8"))["panels"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len(set(places)) > 0


def python_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the mark in front of each Python block (empty without one) and its code."""
    pattern = r"(?:<!-- ([a-z ]+) -->\n)?```python\n(.*?)```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_compile(page: Path) -> None:
    for _, code in python_blocks(page):
        compile(code, str(page), "exec")


def example(mark: str) -> list[str]:
    return [code for found, code in python_blocks(ROOT / "README.md") if found == mark]


def run(mesh: LiveMesh, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=mesh.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr), mesh.log("broker")
    return done.stdout


@pytest.mark.slow
def test_examples_of_the_readme_run() -> None:
    with live_mesh() as mesh:
        mesh.broker()
        mesh.worker("embed", "embed-0")
        ready = 'from mlx_mesh import Mesh\nwith Mesh() as mesh: mesh.ready(["embed"])'
        run(mesh, ready)
        sync, asynchronous = [run(mesh, code) for code in example("runnable")]
    assert "2 384 sentence-transformers/all-MiniLM-L6-v2" in sync
    assert "NO_WORKER" in sync
    assert "['embed-0']" in asynchronous


@pytest.mark.slow
def test_engines_of_the_documentation_serve() -> None:
    pages = [ROOT / "docs/custom-engines.md"]
    shout, distance, countdown, reader = [code for page in pages for _, code in python_blocks(page)]
    assert shout.strip() == example("engine")[0].strip()
    numbers = 'import mlx_mesh\nwith mlx_mesh.Mesh() as m: print(m.call("distance", [3.0, 4.0], wait_for_ready=True))'
    waiting = 'from mlx_mesh import Mesh\nwith Mesh() as mesh: mesh.ready(["countdown", "shout"])'
    with live_mesh() as mesh:
        mesh.broker()
        for name, code in (("Shout", shout), ("Distance", distance), ("Countdown", countdown)):
            (mesh.dir / f"{name.lower()}.py").write_text(code, encoding="utf-8")
            mesh.worker(f"{name.lower()}:{name}", name.lower())
        run(mesh, waiting)
        assert "HELLO\n" == run(mesh, example("calls the engine")[0])
        assert "5.0\n" == run(mesh, numbers)
        assert "3\n2\n1\nlift-off\n" == run(mesh, reader)
