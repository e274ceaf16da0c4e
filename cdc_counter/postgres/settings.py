"""The session settings that could change what a key looks like, pinned to one value each.

The same values hold in the probe, in the capture functions and in sessions that recount; anything computed under them
is the same whoever writes.
"""

from typing import Final

_PINNED: Final = (
    ("search_path", "pg_catalog, pg_temp"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
)


def pinned_settings() -> dict[str, str]:
    """Return the settings for a session that recounts; names and values as `set_config` takes them."""
    return dict(_PINNED)


_NO_JIT: Final = ("jit", "off")
"""A session keeps the plan of its first firing; after a bulk statement that would compile code for every single row."""

_GO_ON: Final = ("exit_on_error", "off")
"""With `on`, which an application may set, an error ends the session even where a function catches it."""


def function_settings() -> str:
    """Return the SET clauses of a capture function, one per line."""
    lines = []
    for name, value in (*_PINNED, _NO_JIT, _GO_ON):
        # search_path is a list of identifiers; quoted as one literal it would be one odd schema name
        lines.append(f"SET {name} = {value}" if name == "search_path" else f"SET {name} = '{value}'")
    return "\n".join(lines)
