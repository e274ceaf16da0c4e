"""The counters that are declared on the competitors' tables, up to ten. A change of status changes each of them."""

from collections.abc import Mapping, Sequence
from typing import Final

_OPEN: Final = "where = \"status = 'open'\""
_ACCOUNT: Final = 'scope = "account_id"'

_DECLARED: Final[Mapping[str, Sequence[str]]] = {
    "open_by_channel": (_OPEN, _ACCOUNT, 'by = "channel_id"'),
    "by_status": (_ACCOUNT, 'by = "status"'),
    "open_by_assignee": (_OPEN, _ACCOUNT, 'by = "assignee_id"'),
    "open": (_OPEN, _ACCOUNT),
    "everywhere_by_status": ('by = "status"',),
    "everywhere_open_by_channel": (_OPEN, 'by = "channel_id"'),
    "by_channel_and_status": (_ACCOUNT, 'by = ["channel_id", "status"]'),
    "closed_by_channel": ("where = \"status = 'closed'\"", _ACCOUNT, 'by = "channel_id"'),
    "by_assignee_and_status": (_ACCOUNT, 'by = ["assignee_id", "status"]'),
    "open_by_pair": (_OPEN, _ACCOUNT, 'by = ["channel_id", "assignee_id"]'),
}

MOST: Final = len(_DECLARED)


def declared(table: str, count: int) -> str:
    """Return the first `count` of them on a table, as a configuration has them."""
    sections = []
    for name, lines in list(_DECLARED.items())[:count]:
        head = ("[[counter]]", f'name = "{table}_{name}"', f'table = "{table}"')
        sections.append("\n".join((*head, *lines)))
    return "\n".join(sections)
