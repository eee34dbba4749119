from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_wire import paths
from mlx_mesh_wire.settings import SettingsError, add_flags, config_file, load_settings, setting


@dataclass(frozen=True)
class Demo:
    count: int = setting(3, low=1, high=10, help="how many")
    pause_s: float = setting(1.5, low=0, help="seconds")
    on: bool = setting(True, help="whether")
    kind: str = setting("a", choices=("a", "b"), help="which")
    name: str = setting("", help="what")
    most: int = setting(1, high=5, help="at most")
    listen: tuple[str, ...] = setting((), help="where")


def load(
    tmp_path: Path, text: str = "", env: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> Demo:
    file = tmp_path / "mesh.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(Demo, "broker", file=file, env=env or {}, flags=flags)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = "[broker]\ncount = 4\npause_s = 2\non = false\nlisten = ['x', 'y']\n"
    assert Demo(4, 2.0, False, listen=("x", "y")) == load(tmp_path, text)
    env = {"MLX_MESH_BROKER_COUNT": "5", "MLX_MESH_BROKER_LISTEN": "p, q", "MLX_MESH_BROKER_ON": "Yes"}
    loaded = load(tmp_path, text, env)
    assert (loaded.count, loaded.listen, loaded.on) == (5, ("p", "q"), True)
    assert load(tmp_path, text, env, {"count": "6", "name": None}).count == 6


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        ("count", "0", "an integer from 1 to 10"),
        ("count", "11", "an integer from 1 to 10"),
        ("count", "two", "an integer from 1 to 10"),
        ("count", "2.5", "an integer from 1 to 10"),
        ("pause_s", "-1", "a number of at least 0"),
        ("pause_s", "nan", "a number of at least 0"),
        ("most", "6", "an integer of at most 5"),
        ("on", "maybe", "true or false"),
        ("kind", "c", "one of a, b"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_what_was_given_and_what_is_allowed(
    tmp_path: Path, name: str, given: str, allowed: str
) -> None:
    for env, flags, shown in (
        ({f"MLX_MESH_BROKER_{name.upper()}": given}, None, f"MLX_MESH_BROKER_{name.upper()}"),
        ({}, {name: given}, "--" + name.replace("_", "-")),
    ):
        with pytest.raises(SettingsError) as caught:
            load(tmp_path, "", env, flags)
        for part in (shown, given, allowed):
            assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[broker]\ncount = '3'", ["broker.count", "'3'", "an integer"]),
        ("[broker]\ncount = true", ["broker.count", "True"]),
        ("[broker]\nlisten = 'x'", ["broker.listen", "a list of strings"]),
        ("[broker]\nlisten = [1]", ["broker.listen", "a list of strings"]),
        ("[broker]\nname = 5", ["broker.name", "a string"]),
        ("[broker]\ncuont = 3", ["cuont", "did you mean count?"]),
        ("[broker]\nxyz = 3", ["xyz"]),
        ("[brokers]\ncount = 3", ["[brokers]", "allowed are broker, worker"]),
        ("broker = 3", ["[broker]"]),
        ("[broker", ["mesh.toml", "cannot be read"]),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_file_is_refused_and_no_file_is_fine(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(Demo, "broker", file=tmp_path / "none.toml", env={})
    assert Demo() == load_settings(Demo, "broker", env={})


def test_every_setting_becomes_a_flag_with_its_help() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Demo)
    assert {
        key: value for key, value in vars(parser.parse_args(["--count", "7"])).items() if key in ("count", "pause_s")
    } == {"count": "7", "pause_s": None}
    assert "how many (default: 3)" in parser.format_help()


def test_a_flag_that_two_sections_share_is_there_once_and_counts_for_both() -> None:
    @dataclass(frozen=True)
    class Other:
        count: int = setting(1, low=0, help="the same name")
        own: str = setting("", help="another name")

    parser = argparse.ArgumentParser()
    add_flags(parser, Demo)
    add_flags(parser, Other, without={field.name for field in fields(Demo)})
    flags = vars(parser.parse_args(["--count", "7", "--own", "x"]))
    assert Other(7, "x") == load_settings(Other, "other", env={}, flags=flags)


def test_the_file_is_found_by_variable_then_here_then_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert config_file({}) is None
    (tmp_path / "home" / ".mlx-mesh").mkdir(parents=True)
    (tmp_path / "home" / ".mlx-mesh" / "mesh.toml").touch()
    assert tmp_path / "home" / ".mlx-mesh" / "mesh.toml" == config_file({})
    (tmp_path / "mesh.toml").touch()
    assert Path("mesh.toml") == config_file({})
    assert Path("/other.toml") == config_file({"MLX_MESH_CONFIG": "/other.toml"})


def test_the_run_directory_decides_every_endpoint(tmp_path: Path) -> None:
    env = {"MLX_MESH_RUN_DIR": str(tmp_path)}
    assert f"ipc://{tmp_path}/backend.sock" == paths.ipc_endpoint("backend", env)
    assert f"ipc://{tmp_path}/frontend.sock" == paths.client_endpoint(env)
    assert paths.client_endpoint({**env, "MLX_MESH_ENDPOINT": "tcp://h:1"}) == "tcp://h:1"
    assert Path.home() / ".mlx-mesh" / "run" == paths.run_dir({})


def test_the_run_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "run"
    paths.ensure_run_dir(directory)
    paths.ensure_run_dir(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(PermissionError, match="chmod 700"):
        paths.ensure_run_dir(directory)
    with pytest.raises(ValueError, match="too long"):
        paths.ensure_run_dir(tmp_path / ("x" * 100))


@dataclass(frozen=True)
class Ported:
    port: int | str = setting("off", words=("off",), low=0, high=9, help="which")


def test_an_integer_may_have_words_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    for text, env, flags, found in (
        ("", {}, {}, "off"),
        ("[broker]\nport = 0", {}, {}, 0),
        ("[broker]\nport = 'off'", {"MLX_MESH_BROKER_PORT": "7"}, {}, 7),
        ("", {"MLX_MESH_BROKER_PORT": "7"}, {"port": "off"}, "off"),
    ):
        file.write_text(text, encoding="utf-8")
        assert Ported(found) == load_settings(Ported, "broker", file=file, env=env, flags=flags)
    for given in ("on", "10", "-1", "True"):
        with pytest.raises(SettingsError, match="allowed: off, an integer from 0 to 9"):
            load_settings(Ported, "broker", env={}, flags={"port": given})
    file.write_text("[broker]\nport = '7'", encoding="utf-8")
    with pytest.raises(SettingsError, match="'7' is not allowed"):
        load_settings(Ported, "broker", file=file, env={})


def test_a_variable_that_names_no_setting_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MLX_MESH_BROKER_COUTN: .* did you mean MLX_MESH_BROKER_COUNT"):
        load(tmp_path, env={"MLX_MESH_BROKER_COUTN": "5"})
    assert Demo() == load(tmp_path, env={"MLX_MESH_WORKER_COUTN": "5"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a = " + "[" * 10_000, "cannot be read"),
        ("[broker]\ncount = " + "9" * 5000, "cannot be read"),
        ("[broker]\ncount = 0x" + "f" * 5000, r"broker\.count: such a long integer is not allowed"),
        ("[broker]\npause_s = " + "9" * 400, r"broker\.pause_s: 9+ is not allowed"),
    ],
    ids=["nested", "decimal", "hexadecimal", "float"],
)
def test_what_python_cannot_hold_or_print_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(tmp_path, text)
