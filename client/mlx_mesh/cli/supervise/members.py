"""The processes of supervisord's groups: by name, one more, one less."""

from __future__ import annotations

import copy
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from supervisor.options import split_namespec  # type: ignore[import-untyped]
from supervisor.xmlrpc import Faults, RPCError  # type: ignore[import-untyped]

from mlx_mesh.cli.merged import by_number
from mlx_mesh.cli.supervise.sections import program_of, section_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container

NUMBER: Final = "%(process_num)"
PROCESSES_MAX: Final = 1024
"""Of one group: more than one machine can run, and a bound for looking for a free number."""


def find_group(supervisord: Any, name: object) -> Any:
    """Return the group of that name.

    Raises:
        RPCError: there is none; the text names those that there are.
    """
    if not isinstance(name, str) or name not in supervisord.process_groups:
        known = ", ".join(sorted(supervisord.process_groups)) or "none"
        raise RPCError(Faults.BAD_NAME, f"there is no group {name!r}; groups are: {known}")
    return supervisord.process_groups[name]


def find_process(supervisord: Any, name: object) -> tuple[Any, Any]:
    """Return group and process by ``group:process``, or by the name that both have.

    Raises:
        RPCError: there is none; the text names those of the group.
    """
    if not isinstance(name, str):
        raise RPCError(Faults.BAD_NAME, f"{name!r} is not the name of a process, as group:process")
    group_name, process_name = split_namespec(name)
    group = find_group(supervisord, group_name)
    if process_name not in group.processes:
        known = ", ".join(sorted(group.processes, key=by_number)) or "none"
        raise RPCError(Faults.BAD_NAME, f"{group_name} has no process {process_name!r}; it has: {known}")
    return group, group.processes[process_name]


def configs_by_program(group: Any) -> dict[str, list[Any]]:
    """Return what the conf file describes for a group, by program."""
    found: dict[str, list[Any]] = {}
    for config in group.config.process_configs:
        found.setdefault(program_of(config), []).append(config)
    return found


def is_scaled(group: Any, process: Any) -> bool:
    """Whether a process was added to its group beyond what the conf file says."""
    return all(process.config.name != config.name for config in group.config.process_configs)


def one_more(supervisord: Any, group: Any, program: object) -> Any:
    """Return the description of the next process of a program: the one with the lowest number that is free.

    The group's own description stays as it is, so that ``supervisorctl update`` sees no change.

    Raises:
        RPCError: no such program, or it cannot have another process.
    """
    section = _section(group, program)
    if len(group.processes) >= PROCESSES_MAX:
        raise RPCError(Faults.FAILED, f"{group.config.name} has {PROCESSES_MAX} processes, no more are allowed")
    found = _read_again(supervisord.options, group.config.name, section, group.processes)
    # One of the file's own that had been removed is that one again.
    return next((config for config in group.config.process_configs if config.name == found.name), found)


def _section(group: Any, program: object) -> str:
    programs = configs_by_program(group)
    known = ", ".join(sorted(programs))
    if not program and len(programs) > 1:
        raise RPCError(Faults.BAD_ARGUMENTS, f"{group.config.name} has several programs; name one of: {known}")
    if program and program not in programs:
        raise RPCError(Faults.BAD_NAME, f"{group.config.name} has no program {program!r}; it has: {known}")
    (config, *_) = programs[str(program) if program else next(iter(programs))]
    return section_of(config)


def _read_again(options: Any, group: str, section: str, taken: Container[str]) -> Any:
    """Read the conf file as supervisord does, includes and environment and all, with one more process in a section."""
    found: list[Any] = []

    def processes_from_section(parser: Any, each: str, group_name: str, klass: Any = None) -> Any:
        if (each, group_name) != (section, group):
            return options.processes_from_section(parser, each, group_name, klass)

        def read(first: int, number: int) -> Any:
            parser.set(section, "numprocs_start", str(first))
            parser.set(section, "numprocs", str(number))
            return options.processes_from_section(parser, section, group, klass)

        found.append(_next(read, _first_number(options, parser, section), taken))
        return found

    reader = copy.copy(options)
    reader.configroot = SimpleNamespace(supervisord=copy.copy(options.configroot.supervisord))
    reader.environ_expansions = dict(options.environ_expansions)
    # It adds to these, and nobody would read or empty them.
    reader.parse_criticals, reader.parse_warnings, reader.parse_infos = [], [], []
    reader.processes_from_section = processes_from_section
    try:
        reader.read_config(options.configfile)
    except ValueError as error:
        raise RPCError(Faults.CANT_REREAD, str(error)) from error
    if not found:
        raise RPCError(Faults.BAD_NAME, f"{options.configfile} has no [{section}] in {group} any more")
    return found[0]


def _first_number(options: Any, parser: Any, section: str) -> int:
    if NUMBER not in parser.saneget(section, "process_name", "", do_expand=False):
        program = section.partition(":")[2]
        raise RPCError(
            Faults.BAD_ARGUMENTS,
            f"the processes of [{section}] bear no number; write process_name = {program}-{NUMBER}d into "
            f"{options.configfile}, then run: supervisorctl update",
        )
    return int(parser.saneget(section, "numprocs_start", "0"))


def _next(read: Callable[[int, int], Any], start: int, taken: Container[str]) -> Any:
    """Return the first process that is not taken, by the number that stands in its name.

    Args:
        read: returns the processes from a first number on, and how many.
        start: the first number of the file.
        taken: names.
    """
    free = next(number for number in count(start) if read(number, 1)[0].name not in taken)
    name = read(free, 1)[0].name
    # With the count that a file with this process would have, for those whose command shows it.
    return next(config for config in read(start, free - start + 1) if config.name == name)
