"""What verifying a counter found, as it is shown, stored in Redis and sent between processes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.drift import KeyDrift
from cdc_counter.core.reading import VerifiedAt

SHOWN: Final = 20
"""Drifted keys that are named; their number is always whole."""


class Verdict(StrEnum):
    """What can be said. Inconclusive: not decidable with what is known; never a guess."""

    EQUAL = "equal"
    DRIFT = "drift"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Verification:
    """One counter compared, all of it or (`scope` not None) one scope, with a recount at `lsn`.

    `counter_id` and `since` are those of the record that was compared: with others it says nothing.

    `keys` were compared, `drifted` of them are wrong, `drifts` names the first. `at` is when it ended (unix seconds),
    `seconds` how long it took. `reason` says why it is inconclusive, or what else is wrong. `repaired` keys were mended
    just before.
    """

    counter: str
    counter_id: int
    since: float
    verdict: Verdict
    at: float
    seconds: float
    lsn: str = ""
    keys: int = 0
    drifted: int = 0
    drifts: tuple[KeyDrift, ...] = ()
    scope: str | None = None
    reason: str = ""
    repaired: int = 0

    def shortened(self) -> "Verification":
        """Return it with no more keys than are worth naming."""
        return self if len(self.drifts) <= SHOWN else replace(self, drifts=self.drifts[:SHOWN])

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; every drifted key has its `difference`."""
        shown = [{**asdict(key), "difference": key.difference} for key in self.drifts]
        return {**asdict(self), "drifts": shown}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Verification":
        """Read back what `to_json` gave; raises TypeError, KeyError or ValueError on foreign data."""
        drifts = tuple(KeyDrift(key["scope"], key["bucket"], key["tally"], key["truth"]) for key in data["drifts"])
        return cls(**{**data, "verdict": Verdict(data["verdict"]), "drifts": drifts})


def proof_of(record: CounterRecord, last: Verification | None) -> VerifiedAt | None:
    """Return what the last verification proves of a counter: nothing, if it became another one since."""
    # Compared for equality: clocks of two hosts tell nothing about what was first.
    if last is None or last.verdict is not Verdict.EQUAL or (last.counter_id, last.since) != (record.id, record.since):
        return None
    return VerifiedAt(last.at, last.lsn)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One transaction that changed a key, from the outbox rows that are still kept."""

    xid: int
    delta: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a command ended with. `ledger`: for (counter, scope, bucket), who touched the first drifted keys lately."""

    verifications: tuple[Verification, ...]
    ledger: Mapping[tuple[str, str, str], tuple[LedgerEntry, ...]]

    @property
    def verdict(self) -> Verdict:
        """Drift in one is drift; what could not be told is never equal."""
        verdicts = {verification.verdict for verification in self.verifications}
        for verdict in (Verdict.DRIFT, Verdict.INCONCLUSIVE):
            if verdict in verdicts:
                return verdict
        return Verdict.EQUAL

    def to_json(self) -> dict[str, Any]:
        """Return the plain dict that `--json` prints."""
        return {
            "verdict": self.verdict.value,
            "counters": [
                {**verification.to_json(), "ledger": self._ledger_of(verification)}
                for verification in self.verifications
            ],
        }

    def _ledger_of(self, verification: Verification) -> list[dict[str, Any]]:
        return [
            {"scope": scope, "bucket": bucket, "transactions": [asdict(entry) for entry in entries]}
            for (counter, scope, bucket), entries in self.ledger.items()
            if counter == verification.counter
        ]
