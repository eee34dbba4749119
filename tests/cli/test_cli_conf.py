"""What supervisord.conf promises, read as supervisord reads it."""

from __future__ import annotations

from configparser import RawConfigParser

import pytest
from cli_shell import TOP

from mlx_mesh.cli.up import default_conf


@pytest.fixture(scope="module")
def conf() -> RawConfigParser:
    parser = RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(TOP / "supervisord.conf")
    return parser


def test_the_command_uses_the_same_file(conf: RawConfigParser):
    assert default_conf() == TOP / "supervisord.conf"


def test_nothing_listens_on_a_network(conf: RawConfigParser):
    assert not [name for name in conf.sections() if name.startswith("inet_http_server")]


def test_socket_and_files_are_for_their_owner_alone(conf: RawConfigParser):
    assert conf["unix_http_server"]["chmod"] == "0700"
    assert conf["supervisord"]["umask"] == "077"


def test_every_log_is_rotated(conf: RawConfigParser):
    for name in conf.sections():
        if name.startswith("program:"):
            assert conf[name]["stdout_logfile_maxbytes"] == "10MB"
            assert 0 < int(conf[name]["stdout_logfile_backups"]) < 10
    assert conf["eventlistener:guard"]["stderr_logfile_maxbytes"] == "10MB"
    assert 0 < int(conf["eventlistener:guard"]["stderr_logfile_backups"]) < 10
    assert conf["supervisord"]["logfile_maxbytes"] == "10MB"


def test_workers_are_given_more_time_to_stop_than_they_take_to_drain(conf: RawConfigParser):
    from mlx_mesh_worker.settings import WorkerSettings

    for program in ("program:embed", "program:generate"):
        assert int(conf[program]["stopwaitsecs"]) >= WorkerSettings().drain_s + 5
        assert conf[program]["stopsignal"] == "TERM"


def test_a_worker_that_cannot_load_is_not_started_again_and_again(conf: RawConfigParser):
    from mlx_mesh_worker.main import EXIT_CONFIG, EXIT_USAGE

    for program in ("program:embed", "program:generate"):
        assert conf[program]["exitcodes"] == f"{EXIT_USAGE},{EXIT_CONFIG}"
        assert conf[program]["autorestart"] == "unexpected"


def test_text_is_off_until_one_line_names_a_model(conf: RawConfigParser):
    assert conf["program:generate"]["autostart"] == "false"
    assert "--model" not in conf["program:generate"]["command"]
    assert (TOP / "supervisord.conf").read_text().count("\n;environment = MLX_MESH_GENERATE_MODEL=") == 1


def test_the_broker_is_started_first_and_stopped_last_and_the_guard_is_next(conf: RawConfigParser):
    order = [int(conf[name]["priority"]) for name in ("program:broker", "eventlistener:guard", "group:workers")]
    assert order == sorted(set(order))


def test_a_guard_that_is_told_nonsense_is_not_started_again_and_again(conf: RawConfigParser):
    from mlx_mesh_worker.guard.main import EXIT_CONFIG, EXIT_USAGE

    assert conf["eventlistener:guard"]["exitcodes"] == f"{EXIT_USAGE},{EXIT_CONFIG}"
    assert conf["eventlistener:guard"]["autorestart"] == "unexpected"


def test_two_workers_bear_the_names_that_the_broker_shows(conf: RawConfigParser):
    assert conf["program:embed"]["numprocs"] == "2"
    for program in ("program:embed", "program:generate"):
        assert f"--name {conf[program]['process_name']}" in conf[program]["command"]
