"""Puts a mutant in the place of what runs: warm, into the functions that exist, or cold, before it is imported."""

from __future__ import annotations

import ast
import gc
import marshal
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from tests.mutation.mutators import Mutant, mutants
from tests.mutation.targets import module_name


class Built(NamedTuple):
    """A mutant and its code, marshalled: a function's, or a whole module's."""

    module: str
    path: Path
    mutant: Mutant
    code: bytes

    @property
    def cold(self) -> bool:
        """Whether it is outside of every function, and so has run before a test begins."""
        return not self.mutant.outer

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it in the list of equivalent ones: it outlives changes of the lines around it."""
        return f"{self.module}:{self.mutant.where}", self.mutant.was, self.mutant.becomes


def build(path: Path) -> list[Built]:
    """Return all mutants of a source file."""
    tree = ast.parse(path.read_text())
    return [
        Built(module_name(path), path, mutant, marshal.dumps(_code(tree, path, mutant))) for mutant in mutants(tree)
    ]


def whole(built: Built) -> CodeType:
    """Return the code of the mutant's whole module."""
    if built.cold:
        code: CodeType = marshal.loads(built.code)
        return code
    tree = ast.parse(built.path.read_text())
    same = (compile(tree, str(built.path), "exec", dont_inherit=True) for m in mutants(tree) if m == built.mutant)
    return next(same)


def _code(tree: ast.Module, path: Path, mutant: Mutant) -> CodeType:
    module = compile(tree, str(path), "exec", dont_inherit=True)
    if not mutant.outer or mutant.default is not None:
        return module
    return _inside(module, mutant.outer, mutant.first)


def _inside(code: CodeType, name: str, line: int) -> CodeType:
    """Find an outermost function by its qualified name; of a property's two, that which holds the line."""
    found = [c for c in _functions(code) if c.co_qualname == name]
    return max((c for c in found if c.co_firstlineno <= line), key=lambda c: c.co_firstlineno)


def _functions(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return inner + [deep for c in inner for deep in _functions(c)]


class Functions:
    """The functions of the mutated sources that exist now, however they are wrapped."""

    def __init__(self, paths: list[Path]) -> None:
        names = {str(path) for path in paths}
        self._found: dict[tuple[str, str], list[FunctionType]] = {}
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and thing.__code__.co_filename in names:
                code = thing.__code__
                self._found.setdefault((code.co_filename, code.co_qualname), []).append(thing)

    def of(self, built: Built) -> list[FunctionType]:
        """Return the outermost functions that the mutant is in."""
        same = self._found.get((str(built.path), built.mutant.outer), [])
        starts = [f.__code__.co_firstlineno for f in same if f.__code__.co_firstlineno <= built.mutant.first]
        return [f for f in same if starts and f.__code__.co_firstlineno == max(starts)]

    def exchange(self, built: Built) -> None:
        """Make the mutant what runs, in this process and for good."""
        for function in self.of(built):
            if built.mutant.default is None:
                function.__code__ = marshal.loads(built.code)
            else:
                _exchange_default(function, built)


def _exchange_default(function: Any, built: Built) -> None:
    kind, index = built.mutant.default or ("", 0)
    value = eval(built.mutant.becomes, function.__globals__)
    if kind == "defaults":
        values = list(function.__defaults__)
        values[index] = value
        function.__defaults__ = tuple(values)
    else:
        function.__kwdefaults__[kind] = value


class _Loader(SourceFileLoader):
    def __init__(self, built: Built) -> None:
        super().__init__(built.module, str(built.path))
        self._code = whole(built)

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder:
    def __init__(self, built: Built) -> None:
        self._built = built

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self._built.module:
            return None
        return spec_from_file_location(fullname, self._built.path, loader=_Loader(self._built))


def exchange_cold(built: Built) -> None:
    """Make the mutant what will be imported."""
    assert built.module not in sys.modules
    sys.meta_path.insert(0, _Finder(built))  # type: ignore[arg-type]
