"""Whether capture still sees every change of the counted tables: partitions come and go, triggers get disabled.

Only reads. A fault means that numbers may already be wrong: `init` repairs the triggers and starts the counter anew.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.postgres.capture import Event, trigger_name
from cdc_counter.postgres.installed import installed_counters
from cdc_counter.postgres.rendering import block, identifier_text, qualified


@dataclass(frozen=True, slots=True)
class CoverageFault:
    """A change of `relation` can go uncounted, or be counted wrongly. `reason` is a phrase, lower case."""

    relation: str
    counters: tuple[str, ...]
    reason: str


async def coverage(connection: AsyncConnection[Any], schema: str) -> list[CoverageFault]:
    """Return every fault of capture; none when all is well or nothing is installed."""
    if not await installed_counters(connection, schema):
        return []
    counters = qualified(schema, "counters")
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(block("catalog", "counted_relations").format(counters=counters))
        relations = await cursor.fetchall()
        await cursor.execute(block("catalog", "missing_relations").format(counters=counters))
        missing = await cursor.fetchall()
        await cursor.execute(block("catalog", "triggers"), {"schema": schema})
        triggers = await cursor.fetchall()
    faults = [CoverageFault(str(row["relation"]), (row["name"],), "the table was dropped") for row in missing]
    by_relation: dict[int, dict[str, str]] = defaultdict(dict)
    for row in triggers:
        by_relation[row["relation"]][row["name"]] = row["enabled"]
    for row in relations:
        quoted = identifier_text(row["schema"], row["table"])
        names = tuple(row["counters"])
        if row["root_is_partition"] and row["oid"] == row["root"]:
            faults.append(CoverageFault(quoted, names, "the table has become a partition of another"))
        found = by_relation[row["oid"]]
        faults.extend(CoverageFault(quoted, names, reason) for reason in _trigger_faults(found, schema))
    counted = {row["oid"] for row in relations}
    strays = {identifier_text(t["schema"], t["table"]) for t in triggers if t["relation"] not in counted}
    faults.extend(CoverageFault(quoted, (), "is captured but belongs to no counted table") for quoted in sorted(strays))
    return faults


def _trigger_faults(found: dict[str, str], schema: str) -> list[str]:
    reasons = []
    for event in Event:
        name = trigger_name(schema, event)
        enabled = found.get(name)
        if enabled is None:
            reasons.append(f"has no trigger for {event.name}")
        elif enabled != "A":
            reasons.append(f"trigger {name} is not enabled always")
    return reasons
