"""generate and chat on a real mesh that supervisord runs: as a command, as a script, at a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_shell import PATIENCE_S, Shell, changed_conf, wait_for
from terminal import CTRL_C, CTRL_D, Terminal

from mlx_mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = ';environment = MLX_MESH_GENERATE_MODEL="mlx-community/Qwen3-0.6B-4bit"'
NO_END = ("--logit-bias", "1=-100")


def client(shell: Shell) -> Mesh:
    return Mesh(f"ipc://{shell.run_dir}/frontend.sock")


def generate_worker(shell: Shell) -> dict[str, object]:
    return shell.workers().get("generate-0", {})


def test_without_a_model_text_is_off_and_nobody_is_troubled_by_it(mesh: Shell):
    wait_for(lambda: mesh.supervisorctl("status").count("RUNNING") == 4, "the others")
    shown = mesh.supervisorctl("status")
    assert "Not started" in next(line for line in shown.splitlines() if "generate-0" in line)
    assert "generate-0" not in mesh.good("status")
    errors = mesh.bad("generate", "Once")
    assert "NO_WORKER" in errors
    assert "start one with: mlx-mesh up --generate MODEL" in errors


def test_one_line_in_the_conf_turns_text_on(make_shell: Callable[..., Shell], llama: Path, tmp_path: Path):
    shell = make_shell()
    conf = changed_conf(tmp_path, LINE, f'environment = MLX_MESH_GENERATE_MODEL="{llama}"')
    assert shell.run("supervisord", "-c", conf).returncode == 0
    wait_for((shell.run_dir / "control.sock").exists, "the broker")
    wait_for(lambda: generate_worker(shell).get("state") == "ready", "the worker for text")
    assert shell.good("generate", "--max-tokens", 4, "Once").endswith("\n")
    assert "generate:generate-0: stopped" in shell.supervisorctl("stop", "generate:*")
    assert "generate-0  STOPPED" in shell.good("status")


def test_a_line_in_mesh_toml_turns_text_on(make_shell: Callable[..., Shell], llama: Path, echo_conf: Path):
    shell = make_shell()
    (shell.home / "mesh.toml").write_text(f'[generate]\nmodel = "{llama}"\n')
    assert "generate-0: ready" in shell.mesh("up", "--detach", "--conf", echo_conf).stderr.decode()
    assert wait_for(lambda: generate_worker(shell).get("models"), "what it serves") == ["tiny-llama"]


def test_a_conf_without_the_program_cannot_be_told_a_model(no_mesh: Shell, tmp_path: Path):
    conf = changed_conf(tmp_path, "[program:generate]", "[program:other]")
    assert "has no [program:generate]" in no_mesh.bad("up", "--detach", "--conf", conf, "--generate", "x")


def test_what_is_warm_where_is_shown(text_mesh: Shell):
    wait_for(lambda: "tiny-llama,(plain-llama)" in text_mesh.good("status"), "the first beat")
    text_mesh.good("generate", "--model", "plain-llama", "--max-tokens", "3", "Once")
    wait_for(lambda: "tiny-llama,plain-llama" in text_mesh.good("status"), "both models in memory")
    wait_for(lambda: "GENERATED_TOKENS" in text_mesh.good("status"), "the engine's counters")


def test_the_text_is_that_of_the_client(text_mesh: Shell):
    flags = [
        "--max-tokens",
        "20",
        "--temperature",
        "1",
        "--top-p",
        "0.9",
        "--top-k",
        "50",
        "--min-p",
        "0.01",
        "--seed",
        "3",
    ]
    flags += ["--repetition-penalty", "1.1", "--presence-penalty", "0.5", "--frequency-penalty", "0.5", *NO_END]
    with client(text_mesh) as mesh:
        text = mesh.generate(
            "Once", max_tokens=20, temperature=1.0, top_p=0.9, top_k=50, min_p=0.01, seed=3, repetition_penalty=1.1,
            presence_penalty=0.5, frequency_penalty=0.5, logit_bias={1: -100},
        ).text()  # fmt: skip
    assert text + "\n" == text_mesh.good("generate", *flags, "Once")
    assert text + "\n" == text_mesh.good("generate", *flags, "-", stdin=b"Once")


def test_json_has_tokens_usage_and_timings(text_mesh: Shell):
    found = json.loads(text_mesh.good("generate", "--json", "--max-tokens", 5, *NO_END, "Once"))
    assert {"text", "tokens", "finish_reason", "usage", "timings", "model"} == set(found)
    assert (len(found["tokens"]), found["finish_reason"], found["model"]) == (5, "length", "tiny-llama")
    assert {"prompt", "cached", "completion", "moved"} == set(found["usage"])
    assert {"queue_ms", "prefill_ms", "decode_ms"} == set(found["timings"])
    stopped = json.loads(text_mesh.good("generate", "--json", "--stop-token", found["tokens"][2], *NO_END, "Once"))
    assert stopped["finish_reason"] == "stop"
    assert stopped["tokens"] == found["tokens"][:2]


def test_json_tells_log_probabilities_if_asked(text_mesh: Shell):
    found = json.loads(text_mesh.good("generate", "--json", "--top-logprobs", 2, "--max-tokens", 3, *NO_END, "Once"))
    assert [each["token"] for each in found["logprobs"]] == found["tokens"]
    assert all(each["top"][0] == [each["token"], each["logprob"]] for each in found["logprobs"])
    assert all(len(each["top"]) == 2 for each in found["logprobs"])


@pytest.mark.parametrize("as_file", [False, True])
def test_text_is_held_to_a_schema(text_mesh: Shell, tmp_path: Path, as_file: bool):
    schema = '{"enum": ["yes", "no"]}'
    path = tmp_path / "schema.json"
    path.write_text(schema)
    text = text_mesh.good("generate", "--json-schema", str(path) if as_file else schema, "Well?")
    assert json.loads(text) in ("yes", "no")


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["generate", ""], "the prompt is empty", 2),
        (["generate", "--logprobs", "x"], "with --json only", 2),
        (["generate", "--max-tokens", "0", "x"], "INVALID_REQUEST: max_tokens is '0'; allowed: an integer from 1", 1),
        (["generate", "--top-logprobs", "21", "--json", "x"], "top_logprobs is '21'", 1),
        (["generate", "--model", "nix", "x"], "there is plain-llama, tiny-llama", 1),
        (["generate", "--json-schema", '{"type": "nix"}', "x"], "json_schema", 1),
        (["generate", "-"], "not valid UTF-8", 1),
        (
            ["chat", "--model", "plain-llama"],
            "plain-llama has no chat template; use generate: mlx-mesh generate TEXT",
            1,
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(text_mesh: Shell, arguments: list[str], told: str, status: int):
    stdin = b"\xff" if arguments[-1] == "-" else b"hello\n"
    errors = text_mesh.bad(*arguments, stdin=stdin, status=status)
    assert told in errors
    assert len(errors.splitlines()) == 1


def test_a_script_holds_a_conversation(text_mesh: Shell):
    script = b"hello\n\n/retry\nand then\n/system Be brief.\nagain\n/new\nhello\n/nix\n"
    done = text_mesh.mesh("chat", "--max-tokens", "6", *NO_END, stdin=script)
    with client(text_mesh) as mesh:

        def answer(*said: str, system: str = "") -> str:
            messages = [{"role": "system", "content": system}] if system else []
            messages += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
            return mesh.chat(messages, max_tokens=6, logit_bias={1: -100}).text()

        one = answer("hello")
        two = answer("hello", one, "and then")
        three = answer("hello", one, "and then", two, "again", system="Be brief.")
        four = answer("hello", system="Be brief.")
    assert "".join(f"{text}\n" for text in (one, one, two, three, four)) == done.stdout.decode()
    assert done.stderr.decode().startswith("there is no /nix\n/new ")


@pytest.fixture
def terminal(text_mesh: Shell):
    opened: list[Terminal] = []

    def open_terminal(*args: str) -> Terminal:
        opened.append(Terminal(text_mesh, *args))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def test_ctrl_c_ends_the_answer_and_what_was_said_of_it_stays(
    text_mesh: Shell, slow_text: Callable[[], None], terminal: Callable[..., Terminal]
):
    screen = terminal("chat", "--max-tokens", "900", *NO_END)
    screen.until("> ")
    screen.type("half a line")
    screen.until("half a line")
    screen.interrupt("> ")
    screen.type("hello\n")
    screen.until("hello\r\n", more=60)
    screen.type(CTRL_C)
    screen.until("(cancelled)")
    slow_text()
    screen.until("> ")
    assert screen.process.poll() is None
    wait_for(lambda: generate_worker(text_mesh).get("in_flight") == 0, "the worker to be free")
    screen.type("and then\n")
    shown = screen.until("ended by length")
    # What was read: both messages, and the part of an answer between them.
    assert int(shown.rpartition(" tokens read")[0].rpartition("\n")[2]) > 40
    assert "900 tokens generated at " in shown
    screen.until("> ")
    screen.type(CTRL_D)
    assert screen.process.wait(PATIENCE_S) == 0


def test_a_conversation_outlives_its_worker(text_mesh: Shell, terminal: Callable[..., Terminal]):
    screen = terminal("chat", "--max-tokens", "4", *NO_END)
    screen.until("> ")
    screen.type("/help\n")
    assert "/retry" in screen.until("> ")
    screen.type("hello\n")
    screen.until("ended by length")
    text_mesh.supervisorctl("stop", "generate:*")
    text_mesh.wait_ready("embed-0", "embed-1")  # The broker has heard of it.
    try:
        screen.until("> ")
        screen.type("hello again\n")
        screen.until("NO_WORKER")
        screen.until("/retry asks again")
    finally:
        text_mesh.supervisorctl("start", "generate:*")
        wait_for(lambda: generate_worker(text_mesh).get("state") == "ready", "the worker for text")
    screen.until("> ")
    screen.type("/retry\n")
    screen.until("ended by length")


def test_at_a_terminal_a_model_cannot_steer_it(text_mesh: Shell, llama: Path, terminal: Callable[..., Terminal]):
    vocabulary = json.loads((llama / "tokenizer.json").read_text())["model"]["vocab"]
    escape = vocabulary[chr(256 + 0x1B)]  # as byte-level tokenizers write it
    asked = ["generate", "--max-tokens", "3", "--logit-bias", f"{escape}=100", "Once"]
    assert text_mesh.good(*asked) == "\x1b\x1b\x1b\n"
    assert terminal(*asked).until("ended by").startswith("\ufffd\ufffd\ufffd\r\n")


@pytest.mark.usefixtures("slow_text")
def test_ctrl_c_ends_the_command(text_mesh: Shell, terminal: Callable[..., Terminal]):
    screen = terminal("generate", "--max-tokens", "1900", *NO_END, "Once")
    screen.until("", more=40)
    screen.type(CTRL_C)
    assert "interrupted" in screen.until("interrupted")
    assert screen.process.wait(PATIENCE_S) == 130
    wait_for(lambda: generate_worker(text_mesh).get("in_flight") == 0, "the worker to be free")
