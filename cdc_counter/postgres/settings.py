"""The session settings that could change what a key looks like, pinned to one value each.

The same values hold in the probe, in sessions that recount and, wherever they could matter, in the capture functions;
anything computed under them is the same whoever writes.
"""

from typing import Final

_READING: Final = (
    ("search_path", "pg_catalog, pg_temp"),
    ("standard_conforming_strings", "on"),
)
"""How the text of a function itself is read."""

_CONVERTING: Final = (
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("array_nulls", "on"),
)
"""How values are written as text and read from it."""


def pinned_settings() -> dict[str, str]:
    """Return the settings for a session that recounts; names and values as `set_config` takes them."""
    return dict((*_READING, *_CONVERTING))


_NO_JIT: Final = ("jit", "off")
"""A session keeps the plan of its first firing; after a bulk statement that would compile code for every single row."""

_GO_ON: Final = ("exit_on_error", "off")
"""With `on`, which an application may set, an error ends the session even where a function catches it."""


def function_settings(*, converts: bool = True) -> str:
    """Return the SET clauses of a function, one per line; each costs every call.

    A function that converts no value from or to text, other than those that look alike in every session, needs fewer.
    """
    lines = []
    for name, value in (*_READING, *(_CONVERTING if converts else ()), _NO_JIT, _GO_ON):
        # search_path is a list of identifiers; quoted as one literal it would be one odd schema name
        lines.append(f"SET {name} = {value}" if name == "search_path" else f"SET {name} = '{value}'")
    return "\n".join(lines)
