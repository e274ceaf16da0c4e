"""A deployment per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.deployment import Deployment


@pytest.fixture
def deployment(database: str, redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """Create tables with rows in a fresh database; nothing is installed yet. On both PostgreSQL versions."""
    with Deployment(database, redis_url, tmp_path) as made:
        yield made


@pytest.fixture
def deployment18(database18: str, redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """As `deployment`, on PostgreSQL 18 only: where the version can't matter."""
    with Deployment(database18, redis_url, tmp_path) as made:
        yield made
