"""Reads PostgreSQL's text form of a stored query (`pg_rewrite.ev_action`), as `src/backend/nodes/read.c` does.

Pure. Knows the notation (nodes in braces, lists in parentheses, backslash escapes), not what the nodes mean.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cdc_counter.errors import ProtocolError

_TOKEN: Final = re.compile(r"[(){}]|(?:\\.|[^\s(){}\\])+", re.DOTALL)

NULL: Final = "<>"
"""How the notation spells a null pointer and an empty list."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its kind in upper case, and for each field the values that follow it."""

    kind: str
    fields: dict[str, tuple["str | Node | tuple[object, ...]", ...]]

    def text(self, field: str) -> str:
        """Return a field's single token; `<>` when it is absent or not a token."""
        values = self.fields.get(field, ())
        return values[0] if values and isinstance(values[0], str) else NULL

    def is_empty(self, field: str) -> bool:
        """Tell whether a field is null, empty or absent (fields come and go between major versions)."""
        values = self.fields.get(field, ())
        return not values or values[0] == NULL or values[0] == ()

    def child(self, field: str) -> "Node | None":
        """Return a field's node, or None."""
        values = self.fields.get(field, ())
        return values[0] if values and isinstance(values[0], Node) else None

    def children(self, field: str) -> list["Node"]:
        """Return the nodes of a list field."""
        values = self.fields.get(field, ())
        return [item for item in values[0] if isinstance(item, Node)] if values and isinstance(values[0], tuple) else []

    def walk(self) -> Iterator["Node"]:
        """Yield this node and everything below it, parents first."""
        yield self
        for values in self.fields.values():
            for value in values:
                yield from _walk_value(value)


def _walk_value(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield from value.walk()
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk_value(item)


def parse_node_tree(text: str) -> Node:
    """Return the single query of a rule's action; raises ProtocolError on anything else."""
    reader = _Reader(_TOKEN.findall(text))
    value = reader.value()
    nodes = [item for item in value if isinstance(item, Node)] if isinstance(value, tuple) else [value]
    if not reader.at_end or len(nodes) != 1 or not isinstance(nodes[0], Node):
        raise ProtocolError(f"a stored query is not one node: {text[:80]!r}")
    return nodes[0]


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next >= len(self._tokens)

    def _peek(self) -> str:
        if self.at_end:
            raise ProtocolError("a stored query ends in the middle of a node")
        return self._tokens[self._next]

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def value(self) -> str | Node | tuple[object, ...]:
        match self._take():
            case "{":
                return self._node()
            case "(":
                return self._list()
            case token:
                return token

    def _list(self) -> tuple[object, ...]:
        items: list[object] = []
        while self._peek() != ")":
            items.append(self.value())
        self._take()
        return tuple(items)

    def _node(self) -> Node:
        kind = self._take()
        fields: dict[str, tuple[str | Node | tuple[object, ...], ...]] = {}
        while self._peek() != "}":
            name = self._take()
            if not name.startswith(":"):
                raise ProtocolError(f"expected a field in node {kind}, got {name!r}")
            # The first token is the value even when it starts with a colon: an alias may be called ":x".
            values = [self.value()]
            while self._peek() != "}" and not self._peek().startswith(":"):
                values.append(self.value())
            fields[name[1:]] = tuple(values)
        self._take()
        return Node(kind, fields)
