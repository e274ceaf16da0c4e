"""Liveness, readiness and metrics. Ready means that numbers move, as the consumer itself reports it to Redis."""

import os
import socket
import time

from aiohttp import web

from cdc_counter.core.status import STALE_REPORT_SECONDS, Phase, StreamStatus, readiness
from cdc_counter.errors import UnreachableError
from cdc_counter.gateway.http_api import answer
from cdc_counter.gateway.source import TallySource
from cdc_counter.metrics import Metrics


class Health:
    """`/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, source: TallySource, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics

    def attach(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._exposition)

    async def _alive(self, _request: web.Request) -> web.Response:
        return answer({"alive": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        try:
            reason = readiness(await self._source.status(), time.time())
        except UnreachableError as error:
            reason = str(error)
        if reason is not None:
            return answer({"ready": False, "reason": reason}, 503)
        return answer({"ready": True})

    async def _exposition(self, _request: web.Request) -> web.Response:
        try:
            status = await self._source.status()
        except UnreachableError:
            # What this process counts is worth having, most of all now.
            status = None
        if status is not None and (status.pid, status.host) != (os.getpid(), socket.gethostname()):
            self._copy(status, time.time())
        return web.Response(
            body=self._metrics.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"},
        )

    def _copy(self, status: StreamStatus, now: float) -> None:
        """Show the figures of a consumer in another process; silence from it is lag."""
        age = max(0.0, now - status.reported_at)
        silent = age > STALE_REPORT_SECONDS
        self._metrics.lag_seconds.set(status.lag + age if silent else status.lag)
        self._metrics.backlog_bytes.set(status.backlog)
        self._metrics.retained_wal_bytes.set(status.retained_wal or 0)
        self._metrics.streaming.set(int(status.phase is Phase.STREAMING and not silent))
