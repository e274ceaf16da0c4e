"""Turns a source's readings and feed into a stream of readings of one scope, none older than the one before."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Protocol, assert_never

from cdc_counter.core.definition import NO_KEY, CounterDefinition
from cdc_counter.core.reading import Change, CounterInfo, FeedEntry, Gap, Reading, Reset
from cdc_counter.errors import ConfigError, NotReadyError


class TallySource(Protocol):
    """What is read and followed."""

    async def counter(self, name: str) -> CounterInfo | None:
        """Return what is known about a counter, None when it is unknown."""

    async def read(self, counter: str, scope: str) -> Reading:
        """Return every bucket of one scope at one moment."""

    def follow(self) -> AsyncIterator[list[FeedEntry]]:
        """Yield the feed's entries in order, for ever; an empty batch as soon as the start is fixed."""


def checked_scope(info: CounterInfo | None, counter: str, scope: str, declared: Iterable[CounterDefinition]) -> str:
    """Return the scope to watch; raises a CdcCounterError when counter and scope do not go together."""
    if info is None:
        names = [definition.name for definition in declared]
        if counter in names:
            raise NotReadyError(f"counter {counter!r} is declared but not installed", hint="run 'cdc-counter apply'")
        near = get_close_matches(counter, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"declared are: {', '.join(names) or 'none'}"
        raise ConfigError(f"no counter is named {counter!r}", hint=hint)
    if info.scoped and scope == NO_KEY:
        raise ConfigError(f"counter {counter!r} has scopes", hint=f"name one: cdc-counter watch {counter} SCOPE")
    if not info.scoped and scope != NO_KEY:
        raise ConfigError(f"counter {counter!r} has no scopes, so not {scope!r}", hint="leave the scope out")
    return scope


async def readings(source: TallySource, counter: str, scope: str) -> AsyncIterator[Reading]:
    """Yield the scope's reading, then a new one after each change of it, for ever."""
    current: Reading | None = None
    # The source's first batch says that following has begun: what is read after it can't miss an entry.
    async for batch in source.follow():
        updated = advanced(current, batch) if current else None
        if updated is None:
            updated = await source.read(counter, scope)
        if current is None or (updated.values, updated.state) != (current.values, current.state):
            yield updated
        current = updated


def advanced(current: Reading, batch: Iterable[FeedEntry]) -> Reading | None:
    """Return `current` with the feed's `batch` applied, or None when it has to be read again.

    Entries that the reading includes already are passed over.
    """
    values = dict(current.values)
    version = current.version
    sequence = current.sequence
    for entry in batch:
        if isinstance(entry, Gap):
            return None  # whatever its number: Redis may have lost entries and begun again lower
        if entry.sequence <= sequence:
            continue
        sequence = entry.sequence
        match entry:
            case Reset():
                if entry.counter in {None, current.counter}:
                    return None
            case Change():
                if (entry.counter, entry.scope) == (current.counter, current.scope):
                    values.update(entry.values)
                    version = entry.version
            case _:
                assert_never(entry)
    present = {bucket: value for bucket, value in values.items() if value}
    return replace(current, values=present, version=version, sequence=sequence)
