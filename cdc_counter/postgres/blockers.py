"""Who holds the lock that an installation waits for, named so that an operator can find them."""

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.postgres.rendering import block


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session or a prepared transaction (`pid` None) that holds a lock. `age` is its transaction's, in seconds."""

    pid: int | None
    user: str
    application: str
    state: str
    age: float
    query: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"prepared transaction {self.query!r} of {self.user}, {self.age:.0f} s old"
        user = self.user or "the server itself"
        who = f"{user} ({self.application})" if self.application else user
        return f"pid {self.pid} of {who}, {self.state}, transaction {self.age:.1f} s old: {self.query}"


async def blockers_of(connection: AsyncConnection[Any], pid: int) -> tuple[Blocker, ...]:
    """Return who the backend `pid` waits for right now; ask on another connection than that backend's."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(block("locks", "blockers"), {"pid": pid})
        sessions = [
            Blocker(row["pid"], row["user_name"], row["application"], row["state"], row["age"], row["query"])
            for row in await cursor.fetchall()
        ]
        await cursor.execute(block("locks", "prepared_blockers"), {"pid": pid})
        prepared = [
            Blocker(None, row["user_name"], "", "prepared", row["age"], row["gid"]) for row in await cursor.fetchall()
        ]
    return (*sessions, *prepared)
