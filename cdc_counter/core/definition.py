"""A counter as declared: the value that configuration produces and the SQL side installs.

Only what can be judged without a database is judged here; whether the expressions fit the table is the probe's job.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from cdc_counter.errors import DefinitionError

NO_KEY: Final = "-"
"""The scope of a counter without `scope`, and the bucket of one without `by`."""

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,47}\Z")
"""Counter names become view names (63 bytes in PostgreSQL), room names and Redis keys."""

RESERVED_NAMES: Final = frozenset({"outbox", "ledger", "counters", "heartbeat"})
"""Names of our own relations beside the truth views."""

_SUM: Final = re.compile(r"\s*sum\s*\((?P<expression>.*)\)\s*\Z", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class CounterDefinition:
    """One declared counter. Expressions are SQL over the columns of `table`, as the user wrote them.

    `scope` and `by` hold zero, one or several expressions. `sum_of` is None for a count, else the summed expression.
    """

    name: str
    table: str
    where: str | None = None
    scope: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    sum_of: str | None = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the declaration changes."""
        parts = [self.name, self.table, self.where, self.scope, self.by, self.sum_of]
        text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_measure(text: str) -> str | None:
    """Return None for `count` (or `count(*)`), the expression for `sum(expression)`; raises DefinitionError."""
    if re.fullmatch(r"\s*count\s*(\(\s*\*\s*\))?\s*", text, re.IGNORECASE):
        return None
    match = _SUM.match(text)
    if match is None or not match["expression"].strip():
        raise DefinitionError(f"measure must be 'count' or 'sum(expression)', not {text!r}")
    return match["expression"].strip()


def check_name(name: str) -> str:
    """Return a counter's name unchanged; raises DefinitionError when it does not fit."""
    if NAME_PATTERN.match(name) is None:
        raise DefinitionError(
            f"counter name {name!r} does not fit: lower-case letters, digits and _, starting with a letter, at most 48"
        )
    if name in RESERVED_NAMES:
        raise DefinitionError(f"counter name {name!r} is reserved; taken names are {', '.join(sorted(RESERVED_NAMES))}")
    return name
