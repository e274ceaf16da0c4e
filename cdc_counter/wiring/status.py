"""What `status` shows: the consumer's report, the counters, and what the servers say."""

import time

from cdc_counter.config import Config
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.reading import CounterState
from cdc_counter.core.report import StatusReport
from cdc_counter.core.status import StreamStatus, readiness
from cdc_counter.core.verification import proof_of
from cdc_counter.errors import CdcCounterError
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.coverage import coverage
from cdc_counter.tallies.readiness import check_policy
from cdc_counter.tallies.verifications import Verifications
from cdc_counter.wiring.parts import conninfo, redis_client, source


async def read_status(config: Config) -> StatusReport:
    """Ask Redis, then PostgreSQL; raises UnreachableError when Redis does not answer.

    A PostgreSQL that does not answer is a finding: the numbers are still there to be read.
    """
    reader = source(config)
    try:
        status = await reader.status()
        records = await reader.counters()
    finally:
        await reader.aclose()
    async with redis_client(config) as client:
        verifications = await Verifications(client, config.redis.prefix).all()
        evicting = await check_policy(client)
    proofs = {record.name: proof_of(record, verifications.get(record.name)) for record in records}
    now = time.time()
    findings = [*evicting, *_unconfirmed(status), *_stale(records), *await _capture_findings(config)]
    return StatusReport(
        taken_at=now,
        not_ready=readiness(status, now),
        stream=status,
        counters=tuple(record.info for record in records),
        findings=tuple(findings),
        verified={name: proof for name, proof in proofs.items() if proof is not None},
    )


def _unconfirmed(status: StreamStatus | None) -> list[Finding]:
    if status is None or not status.confirm_fault:
        return []
    return [
        Finding(
            Severity.WARNING,
            f"nothing was confirmed for {status.unconfirmed:.0f} s, and PostgreSQL retains the WAL: "
            f"{status.confirm_fault}",
            "bring back what redis.confirm asks for, or ask for less in redis.confirm",
        )
    ]


def _stale(records: list[CounterRecord]) -> list[Finding]:
    return [
        Finding(
            Severity.ERROR,
            f"counter {record.name} is {record.state}: {record.reason}",
            "cdc-counter repair" if record.drifted else "cdc-counter apply",
        )
        for record in records
        if record.state is CounterState.STALE
    ]


async def _capture_findings(config: Config) -> list[Finding]:
    try:
        async with connected(conninfo(config.postgres, "status")) as connection:
            with translated_errors("inspecting triggers"):
                faults = await coverage(connection, config.postgres.schema_name)
    except CdcCounterError as error:
        return [Finding(Severity.ERROR, str(error), error.hint)]
    return [
        Finding(Severity.ERROR, f"{fault.relation} {fault.reason}: {', '.join(fault.counters)}", "cdc-counter apply")
        for fault in faults
    ]
