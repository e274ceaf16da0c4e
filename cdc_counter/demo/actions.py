"""What people and programs do to the helpdesk's table: the buttons of the page and the traffic, as data.

The statements themselves are in sql/demo.sql.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import psycopg

from cdc_counter.resources import sql_blocks

SCOPES: Final = (1, 2, 3)
"""The accounts that are shown and that have traffic."""


@dataclass(frozen=True, slots=True)
class Action:
    """One transaction: statements in order, each changing about `count` rows, and how it ends.

    `weight` is how often the traffic does it, relative to the others. `undone` are statements that a
    savepoint takes back before the end.
    """

    what: str
    statements: tuple[str, ...]
    count: int = 1
    weight: int = 0
    undone: tuple[str, ...] = ()
    rolls_back: bool = False


TRAFFIC: Final = (
    Action("new conversations", ("act_create",), count=2, weight=6),
    Action("assigned", ("act_assign",), weight=8),
    Action("raced for the same conversation", ("act_race",), weight=6),
    Action("closed", ("act_close",), weight=6),
    Action("snoozed or woke up", ("act_snooze",), weight=5),
    Action("moved to another channel", ("act_move",), count=3, weight=4),
    Action("retagged", ("act_retag",), count=3, weight=5),
    Action("renamed, nothing counted", ("act_rename",), count=25, weight=3),
    Action("deleted", ("act_delete",), count=2, weight=3),
    Action("bulk close", ("act_close",), count=40, weight=1),
    Action("bulk close, then ROLLBACK", ("act_close",), count=60, weight=2, rolls_back=True),
    Action("closed; a bulk delete taken back by a savepoint", ("act_close",), weight=2, undone=("act_delete",)),
    Action("four statements in one transaction", ("act_create", "act_assign", "act_retag", "act_close"), weight=2),
    Action("side door: MERGE", ("act_merge",), count=3, weight=2),
    Action("side door: delete and insert in one statement", ("act_cte",), count=3, weight=2),
    Action("reopened", ("act_refill",), count=25, weight=6),
)

BUTTONS: Final = MappingProxyType(
    {
        "assign": Action("assigned", ("act_assign",)),
        "close": Action("closed 100 conversations in one statement", ("act_close",), count=100),
        "reopen": Action("reopened what was missing", ("act_refill",), count=2000),
        "roll-back": Action("closed 500 conversations, then ROLLBACK", ("act_close",), count=500, rolls_back=True),
        "side-door": Action("side door: MERGE, then delete and insert", ("act_merge", "act_cte"), count=20),
    }
)


async def perform(connection: psycopg.AsyncConnection, action: Action, account: int, who: str) -> int:
    """Run one action in a transaction of its own and note it down; returns how many rows it touched."""
    blocks = sql_blocks("demo")
    parameters = {"account": account, "count": action.count}
    rows = 0
    async with connection.transaction(force_rollback=action.rolls_back):
        for statement in action.statements:
            rows += (await connection.execute(blocks[statement].encode(), parameters)).rowcount
        if action.undone:
            async with connection.transaction(force_rollback=True):
                for statement in action.undone:
                    await connection.execute(blocks[statement].encode(), {**parameters, "count": 50})
    note = {"who": who, "account": account, "what": action.what, "rows": rows}
    await connection.execute(blocks["note_activity"].encode(), note)
    return rows
