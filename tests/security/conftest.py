"""One mesh with keys for all modules; tests that change its processes, or its keys by these names, make their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.keyring import KeyedMesh, keyed_mesh


@pytest.fixture(scope="package")
def keyed() -> Iterator[KeyedMesh]:
    with keyed_mesh() as made:
        yield made
