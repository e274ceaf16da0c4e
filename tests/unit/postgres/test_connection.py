"""Which words of a server that can't be reached say that it is being stopped."""

import pytest

from cdc_counter.postgres.connection import is_stopping

STOPS = 'connection to server at "10.0.0.1", port 5432 failed: FATAL:  the database system is shutting down'
FULL = 'connection to server at "10.0.0.2", port 5432 failed: FATAL:  sorry, too many clients already'


def of_hosts(*each: str) -> str:
    """Return what psycopg says when several hosts failed: the last failure, then all of them."""
    failures = "\n".join(f"- host: {n!r}, port: '5432', hostaddr: None: {said}" for n, said in enumerate(each))
    return f"{each[-1]}\nMultiple connection attempts failed. All failures were:\n{failures}"


@pytest.mark.parametrize(
    ("said", "stopping"),
    [
        (STOPS, True),
        (FULL, False),
        ("", False),
        (of_hosts(STOPS, STOPS), True),
        (of_hosts(STOPS, FULL), False),
        (of_hosts(FULL, STOPS), False),
    ],
)
def test_of_several_hosts_all_must_be_stopping(said: str, stopping: bool) -> None:
    assert is_stopping(said) is stopping
