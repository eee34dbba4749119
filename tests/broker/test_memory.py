"""Memory is given back when it has grown and there is little to do, and not again and again."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import pytest

from mlx_mesh_broker.memory import KEPT_BYTES, PAUSE_S, QUIET_MESSAGES, Memory, own_resident_bytes, trimmer


class World:
    """A process whose memory can be set, and that counts how often it is asked to give some back."""

    def __init__(self) -> None:
        self.resident = 50 << 20
        self.trimmed = 0
        self.memory = Memory(self._trim, lambda: self.resident)

    def _trim(self, pad: int) -> int:
        self.trimmed += 1
        return 1


@pytest.fixture
def world() -> World:
    world = World()
    world.memory.tend(1.0, 0)
    world.trimmed = 0
    return world


def test_what_a_flood_has_left_is_given_back_once_it_is_over(world: World) -> None:
    world.resident += 2 * KEPT_BYTES
    world.memory.tend(10.0, 50_000)
    assert 0 == world.trimmed
    world.memory.tend(12.0, 50_000 + QUIET_MESSAGES - 1)
    assert 1 == world.trimmed


def test_what_cannot_be_given_back_is_asked_for_seldom(world: World) -> None:
    world.resident += 2 * KEPT_BYTES
    for second in range(10, 10 + 8 * int(PAUSE_S)):
        world.memory.tend(float(second), 0)
    assert 3 == world.trimmed


def test_what_is_freed_after_the_first_time_is_given_back_too(world: World) -> None:
    world.resident += 4 * KEPT_BYTES
    world.memory.tend(10.0, 0)
    world.memory.tend(11.0, 0)
    assert 1 == world.trimmed
    world.memory.tend(10.0 + 2 * PAUSE_S, 0)
    assert 2 == world.trimmed


def test_new_growth_is_given_back_soon_though_the_last_time_was_in_vain(world: World) -> None:
    world.resident += 2 * KEPT_BYTES
    for second in (10, 25, 50):
        world.memory.tend(float(second), 0)
    assert 3 == world.trimmed
    world.resident += 2 * KEPT_BYTES
    world.memory.tend(51.0, 0)
    assert 4 == world.trimmed


def test_it_is_looked_at_once_a_second_at_most(world: World) -> None:
    world.memory.tend(10.0, 0)
    world.resident += 2 * KEPT_BYTES
    world.memory.tend(10.5, 0)
    assert 0 == world.trimmed


def test_where_memory_cannot_be_given_back_nothing_is_looked_at() -> None:
    def fail() -> int:
        raise AssertionError

    Memory(None, fail).tend(10.0, 0)


def test_without_a_descriptor_to_look_by_it_is_looked_at_later(world: World) -> None:
    def none_left() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    memory = Memory(world._trim, none_left)
    memory.tend(10.0, 0)
    memory._resident = lambda: 2 * world.resident
    memory.tend(12.0, 0)
    memory._resident = lambda: 4 * world.resident
    memory.tend(20.0, 0)
    assert 1 == world.trimmed


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_the_c_library_gives_back_what_was_freed() -> None:
    trim: Callable[[int], int] | None = trimmer()
    if trim is None:
        pytest.skip("this C library has no malloc_trim")
    assert trim(0) in (0, 1)
    assert own_resident_bytes() > 1 << 20
