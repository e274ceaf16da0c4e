"""What `watch` shows: never older than before, never a missed change."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from cdc_counter.cli.readings import advanced, checked_scope, readings
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Change, CounterInfo, CounterState, FeedEntry, Gap, Reading, Reset
from cdc_counter.errors import ConfigError, NotReadyError

START = Reading("c", "42", {"7": 3}, Lsn(100), "e", CounterState.LIVE, sequence=10)


def change(sequence: int, scope: str = "42", **values: int) -> Change:
    named = {key.removeprefix("b"): value for key, value in values.items()}
    return Change(sequence, "c", scope, named, Lsn(1000 + sequence))


@dataclass
class Script:
    """A source that plays what a test wrote down."""

    reads: list[Reading]
    batches: Sequence[list[FeedEntry]]
    order: list[str] = field(default_factory=list)

    async def counter(self, name: str) -> CounterInfo | None:
        raise AssertionError(f"{name} was looked up")

    async def read(self, counter: str, scope: str) -> Reading:
        assert (counter, scope) == ("c", "42")
        self.order.append("read")
        return self.reads.pop(0)

    async def follow(self) -> AsyncIterator[list[FeedEntry]]:
        for batch in self.batches:
            self.order.append("batch")
            yield batch


async def shown(script: Script) -> list[dict[str, int]]:
    return [dict(reading.values) async for reading in readings(script, "c", "42")]


def test_change_is_absolute_and_carries_its_version() -> None:
    result = advanced(START, [change(11, b7=5, b8=1)])
    assert result is not None
    assert (result.values, result.version, result.sequence) == ({"7": 5, "8": 1}, Lsn(1011), 11)


def test_bucket_of_zero_is_gone() -> None:
    result = advanced(START, [change(11, b7=0)])
    assert result is not None
    assert result.values == {}


def test_change_that_the_reading_includes_is_passed_over() -> None:
    assert advanced(START, [change(9, b7=1), change(10, b7=2)]) == START


def test_change_of_another_scope_or_counter_changes_no_value() -> None:
    other = Change(12, "d", "42", {"7": 9}, Lsn(5000))
    assert advanced(START, [change(11, scope="43", b7=9), other]) == replace(START, sequence=12)


@pytest.mark.parametrize("entry", [Gap(11), Gap(1), Reset(11, None), Reset(11, "c")])
def test_gap_and_reset_demand_a_new_reading(entry: FeedEntry) -> None:
    assert advanced(START, [entry]) is None


def test_reset_of_another_counter_demands_nothing() -> None:
    assert advanced(START, [Reset(11, "d")]) == replace(START, sequence=11)


async def test_reading_is_taken_after_following_has_begun() -> None:
    script = Script([START], [[]])
    await shown(script)
    assert script.order == ["batch", "read"]


async def test_each_change_is_shown_once_and_silence_is_not() -> None:
    script = Script([START], [[Gap(10)], [change(11, b7=4)], [], [change(12, scope="9", b1=1)], [change(13, b7=5)]])
    assert await shown(script) == [{"7": 3}, {"7": 4}, {"7": 5}]


async def test_change_of_state_alone_is_shown() -> None:
    stale = replace(START, state=CounterState.STALE)
    script = Script([START, stale], [[], [Reset(11, "c")]])
    assert [reading.state async for reading in readings(script, "c", "42")] == [CounterState.LIVE, CounterState.STALE]


def test_counter_and_scope_must_go_together() -> None:
    declared = [CounterDefinition("orders", "t")]
    scoped = CounterInfo("orders", scoped=True, state=CounterState.LIVE)
    plain = replace(scoped, scoped=False)
    assert checked_scope(scoped, "orders", "42", declared) == "42"
    assert checked_scope(plain, "orders", "-", declared) == "-"
    with pytest.raises(ConfigError, match="has scopes"):
        checked_scope(scoped, "orders", "-", declared)
    with pytest.raises(ConfigError, match="has no scopes, so not '42'"):
        checked_scope(plain, "orders", "42", declared)


def test_unknown_counter_is_told_from_one_that_is_not_installed() -> None:
    declared = [CounterDefinition("orders", "t")]
    with pytest.raises(NotReadyError, match="declared but not installed"):
        checked_scope(None, "orders", "-", declared)
    with pytest.raises(ConfigError) as caught:
        checked_scope(None, "ordres", "-", declared)
    assert caught.value.hint == "did you mean 'orders'?"
