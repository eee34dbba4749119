"""The mistakes: swapped comparisons, constants off by one, and for or, a lost not, lost statements, None for a result.

No text is mutated, nor what only makes one: docstrings, f-strings, the arguments of what is raised or logged.
Annotations, decorators and asserts stay as they are too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.Pow: ast.Mult, ast.BitXor: ast.BitOr,
}  # fmt: skip

SPEAKING = frozenset(("log", "debug", "info", "warning", "error", "exception", "complain", "_report"))
"""Calls of these names make texts: whether they are called is mutated, with what is not."""

SILENT = frozenset(("__repr__", "__str__"))


class Mutant(NamedTuple):
    """A tree that is wrong in one place, until the next one is asked for.

    ``outer`` is the outermost function around the place, as in ``co_qualname``; empty outside of functions. ``default``
    is the place among the function's defaults, if it is one.
    """

    first: int
    last: int
    outer: str
    where: str
    was: str
    becomes: str
    default: tuple[str, int] | None = None


class Place(NamedTuple):
    outer: str
    where: str
    default: tuple[str, int] | None = None


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Yield each mutant while the tree is that mutant."""
    yield from _block(tree.body, Place("", ""), function=False)


def _block(body: list[ast.stmt], place: Place, *, function: bool) -> Iterator[Mutant]:
    for index, statement in enumerate(body):
        if index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if _skipped(statement):
            continue
        if function and _removable(statement):
            body[index] = ast.copy_location(ast.Pass(), statement)
            yield _told(statement, place, ast.unparse(statement), "pass")
            body[index] = statement
        yield from _statement(statement, place, function=function)


def _skipped(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(value=ast.BinOp(op=ast.BitOr(), right=ast.Name())):
            return True  # a union of types
        case ast.FunctionDef(name=name):
            return name in SILENT
    return False


def _removable(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete() | ast.Raise():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            return True
    return False


def _statement(statement: ast.stmt, place: Place, *, function: bool) -> Iterator[Mutant]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _function(statement, place)
        case ast.ClassDef(name=name):
            inner = f"{place.where}.{name}".lstrip(".")
            yield from _block(statement.body, Place(place.outer, inner), function=False)
        case ast.Return(value=value) if value is not None and not _is_nothing(value):
            statement.value = None
            yield _told(statement, place, f"return {ast.unparse(value)}", "return")
            statement.value = value
            yield from _fields(statement, place)
        case ast.Break() | ast.Continue():
            pass
        case ast.AnnAssign(value=value):
            if value is not None:
                yield from _expression(value, _setter(statement, "value"), place)
        case ast.Raise():
            pass
        case _:
            yield from _fields(statement, place)
            if isinstance(statement, ast.If | ast.While):
                yield from _negated(statement, place)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place) -> Iterator[Mutant]:
    where = f"{place.where}.{node.name}".lstrip(".")
    outer = place.outer or where
    for kind, values in (("defaults", node.args.defaults), ("kw_defaults", node.args.kw_defaults)):
        for index, value in enumerate(values):
            if value is not None:
                key = kind if kind == "defaults" else node.args.kwonlyargs[index].arg
                spot = Place(outer, where, (key, index) if not place.outer else None)
                yield from _expression(value, _item_setter(values, index), spot)
    yield from _block(node.body, Place(outer, where), function=True)


def _negated(node: Any, place: Place) -> Iterator[Mutant]:
    """Turn a condition round where no other mutant does: a name, an attribute or a call."""
    test = node.test
    if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
        node.test = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
        yield _told(test, place, ast.unparse(test), f"not {ast.unparse(test)}")
        node.test = test


def _fields(node: ast.AST, place: Place) -> Iterator[Mutant]:
    """Mutate what is inside a node."""
    if isinstance(node, ast.IfExp):
        yield from _negated(node, place)
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            yield from _expression(value, _setter(node, field), place)
        elif isinstance(value, list):
            yield from _list(value, place)


def _list(values: list[Any], place: Place) -> Iterator[Mutant]:
    if values and isinstance(values[0], ast.stmt):
        yield from _block(values, place, function=True)
        for index, value in enumerate(values):
            if isinstance(value, ast.Break | ast.Continue):
                other = ast.Continue() if isinstance(value, ast.Break) else ast.Break()
                values[index] = ast.copy_location(other, value)
                yield _told(value, place, ast.unparse(value), ast.unparse(other))
                values[index] = value
        return
    for index, value in enumerate(values):
        if isinstance(value, ast.expr):
            yield from _expression(value, _item_setter(values, index), place)
        elif isinstance(value, ast.AST):
            yield from _fields(value, place)


def _expression(node: ast.expr, put: Callable[[Any], None], place: Place) -> Iterator[Mutant]:
    match node:
        case ast.JoinedStr() | ast.Name() | ast.Constant(value=None | str() | bytes()):
            return
        case ast.Constant(value=value) if value is not ...:
            changed: Any = not value if isinstance(value, bool) else value + 1
            yield from _replaced(node, ast.Constant(changed), put, place)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield from _replaced(node, operand, put, place)
            if not isinstance(operand, ast.Constant):
                yield from _fields(node, place)
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                yield from _swapped(node, op, _item_setter(ops, index), place)
            yield from _fields(node, place)
        case ast.BoolOp() | ast.BinOp():
            yield from _swapped(node, node.op, _setter(node, "op"), place)
            yield from _fields(node, place)
        case ast.Call(func=ast.Name(id="cast"), args=[_, _]):
            yield from _expression(node.args[1], _item_setter(node.args, 1), place)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in SPEAKING:
            return
        case ast.Call(func=ast.Name(id="TypeVar" | "NewType")):
            return
        case ast.Lambda(body=body):
            yield from _expression(body, _setter(node, "body"), place)
        case _:
            yield from _fields(node, place)


def _swapped(node: ast.expr, op: Any, put: Callable[[Any], None], place: Place) -> Iterator[Mutant]:
    other = SWAPS.get(type(op))
    if other is not None:
        was = ast.unparse(node)
        put(other())
        yield _told(node, place, was, ast.unparse(node))
        put(op)


def _replaced(node: ast.expr, other: ast.expr, put: Callable[[Any], None], place: Place) -> Iterator[Mutant]:
    put(ast.copy_location(other, node))
    yield _told(node, place, ast.unparse(node), ast.unparse(other))
    put(node)


def _told(node: Any, place: Place, was: str, becomes: str) -> Mutant:
    return Mutant(node.lineno, node.end_lineno or node.lineno, place.outer, place.where, was, becomes, place.default)


def _setter(node: ast.AST, field: str) -> Callable[[Any], None]:
    return lambda value: setattr(node, field, value)


def _item_setter(values: list[Any], index: int) -> Callable[[Any], None]:
    return lambda value: values.__setitem__(index, value)


def _is_nothing(node: ast.expr) -> bool:
    """Whether it is None, or False, for which None is as good."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)
