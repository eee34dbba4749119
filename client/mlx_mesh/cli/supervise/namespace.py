"""The methods ``mlx_mesh.*`` of supervisord's XML-RPC, as ``[rpcinterface:mlx_mesh]`` of the conf adds them.

Every public method is one of them, with what ``system.methodHelp`` says of it as its docstring.
"""

from __future__ import annotations

from typing import Any

from supervisor.datatypes import RestartUnconditionally  # type: ignore[import-untyped]
from supervisor.options import ProcessException, make_namespec  # type: ignore[import-untyped]
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface  # type: ignore[import-untyped]
from supervisor.states import ProcessStates, SupervisorStates  # type: ignore[import-untyped]
from supervisor.xmlrpc import Faults, RPCError  # type: ignore[import-untyped]

from mlx_mesh.cli.merged import by_number
from mlx_mesh.cli.supervise.hurry import Hurry
from mlx_mesh.cli.supervise.leaving import REMOVE, START, call_off, promise, promised
from mlx_mesh.cli.supervise.members import (
    configs_by_program,
    find_group,
    find_process,
    is_scaled,
    one_more,
)
from mlx_mesh.cli.supervise.sections import program_of
from mlx_mesh_wire.worker_command import GUARD, runs, worker_engine

STOPPED = (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.FATAL)


def _comes_back(process: Any) -> bool:
    """Whether supervisord starts a process that has ended again with the next turn of its loop, by transition()."""
    if process.state != ProcessStates.EXITED:
        return False
    again = process.config.autorestart
    return again is RestartUnconditionally or (bool(again) and process.exitstatus not in process.config.exitcodes)


class Namespace:
    """What is published as ``mlx_mesh``."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._standard = SupervisorNamespaceRPCInterface(supervisord)
        self._hurry = Hurry()

    def processes(self) -> list[dict[str, Any]]:
        """Tell of every process what supervisor.getProcessInfo does, and what the mesh wants to know of it.

        More than that: program (its section of the conf, without the kind), worker (whether it runs
        mlx-mesh-worker), engine (of a worker, empty if its command does not name one), guard (whether it runs
        mlx-mesh-guard), stand_in and scaled (added while supervisord runs), restarting and removing (it stops or has
        ended, and is started again or taken out right after).

        @return array result  An array of structs
        """
        self._check_mood()
        return [
            self._told(group, group.processes[name])
            for _, group in sorted(self._supervisord.process_groups.items())
            for name in sorted(group.processes)
        ]

    def groups(self) -> list[dict[str, Any]]:
        """Tell the programs of all groups: group, program, worker, engine, numprocs of the file, names of processes.

        @return array result  An array of structs, one for each program
        """
        self._check_mood()
        return [
            {
                "group": name,
                "program": program,
                "worker": worker_engine(configs[0].command) is not None,
                "engine": worker_engine(configs[0].command) or "",
                "numprocs": len(configs),
                "processes": sorted(
                    (each for each, process in group.processes.items() if program_of(process.config) == program),
                    key=by_number,
                ),
            }
            for name, group in sorted(self._supervisord.process_groups.items())
            for program, configs in sorted(configs_by_program(group).items())
        ]

    def restart(self, name: str, hurry: bool = False) -> bool:
        """Stop a process and have supervisord start it again as soon as it has ended; returns at once.

        A worker drains first; with hurry it is told twice, hands its work back and leaves. One that does not run is
        started. If it is stopped meanwhile, or supervisord is, it stays stopped.

        @param string name    the process, as group:process
        @param boolean hurry  tell it twice
        @return boolean result  True
        """
        self._check_mood()
        _, process = find_process(self._supervisord, name)
        state = process.get_state()
        if promised(process) == REMOVE:
            raise RPCError(Faults.FAILED, f"{name} is being removed")
        if state in (*STOPPED, ProcessStates.BACKOFF):
            self._start(process)
        elif promised(process) == START:
            pass  # by an earlier call
        elif state in (ProcessStates.RUNNING, ProcessStates.STARTING):
            promise(process, START, lambda: self._start_again(process))
            self._stop(process)
        elif state == ProcessStates.STOPPING:
            raise RPCError(Faults.NOT_RUNNING, f"{name} is being stopped; start it once it is")
        else:
            raise RPCError(Faults.FAILED, f"{name} is in a state that supervisord does not know")
        if hurry and process.killing:
            self._hurry.add(process)
        return True

    def add(self, group: str, program: str = "", stand_in: bool = False) -> str:
        """Add one more process of a program to a group and start it, as the conf file describes it.

        It gets the lowest number that is free. It is no change of the group: reread and update do not see it.

        @param string group      the group
        @param string program    its program; may be empty if there is only one
        @param boolean stand_in  whether it is there for a while only
        @return string result    the name of the process, as group:process
        """
        self._check_mood()
        found = find_group(self._supervisord, group)
        config = one_more(self._supervisord, found, program)
        process = config.make_process(found)
        config.create_autochildlogs()
        process.mlx_mesh_stand_in = bool(stand_in)
        found.processes[config.name] = process
        self._log(f"added {group}:{config.name}")
        process.spawn()
        return f"{group}:{config.name}"

    def remove(self, name: str) -> bool:
        """Stop a process and take it out of its group once it has ended; returns at once. A worker drains first.

        @param string name      the process, as group:process
        @return boolean result  True
        """
        self._check_mood()
        group, process = find_process(self._supervisord, name)
        if promised(process) == REMOVE:
            return True
        state = process.get_state()
        if state == ProcessStates.BACKOFF:
            process.stop()  # nothing runs: it is stopped at once
        if process.pid:
            promise(process, REMOVE, lambda: self._take_out(group, process))
            if state != ProcessStates.STOPPING:
                self._stop(process)
        else:
            self._take_out(group, process)
        return True

    def _check_mood(self) -> None:
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE, "supervisord is stopping")

    def _told(self, group: Any, process: Any) -> dict[str, Any]:
        engine = worker_engine(process.config.command)
        return {
            **self._standard.getProcessInfo(make_namespec(group.config.name, process.config.name)),
            "program": program_of(process.config),
            "worker": engine is not None,
            "engine": engine or "",
            "guard": runs(process.config.command, GUARD),
            "stand_in": getattr(process, "mlx_mesh_stand_in", False),
            "scaled": is_scaled(group, process),
            "restarting": promised(process) == START or _comes_back(process),
            "removing": promised(process) == REMOVE,
        }

    def _start(self, process: Any) -> None:
        try:
            process.get_execv_args()
        except ProcessException as error:
            raise RPCError(Faults.NOT_EXECUTABLE, error.args[0]) from error
        process.spawn()

    def _start_again(self, process: Any) -> None:
        if self._supervisord.options.mood >= SupervisorStates.RUNNING:
            process.spawn()

    def _stop(self, process: Any) -> None:
        if failure := process.stop():
            call_off(process)
            raise RPCError(Faults.FAILED, failure)

    def _take_out(self, group: Any, process: Any) -> None:
        name = process.config.name
        # After an update of the group the same name may stand for another process.
        if group.processes.get(name) is process:
            del group.processes[name]
            self._log(f"removed {group.config.name}:{name}")

    def _log(self, text: str) -> None:
        self._supervisord.options.logger.info(text)
