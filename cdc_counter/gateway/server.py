"""Puts the gateway together and runs it: one aiohttp application, one Socket.IO server, a few named tasks."""

import asyncio
import logging
from importlib.resources import files
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.errors import ConfigError, NotReadyError
from cdc_counter.gateway.arrivals import Arrivals
from cdc_counter.gateway.doors import counting, errors_as_json, guarding
from cdc_counter.gateway.engine import HANDSHAKE_SECONDS, Engine
from cdc_counter.gateway.grants import Authority
from cdc_counter.gateway.health import Health
from cdc_counter.gateway.http_api import CounterApi
from cdc_counter.gateway.origins import Origins, is_loopback
from cdc_counter.gateway.push import ANSWER_SECONDS, BEHIND_SECONDS, Push
from cdc_counter.gateway.readings import Readings
from cdc_counter.gateway.source import TallySource
from cdc_counter.metrics import Metrics

GRACE_SECONDS: Final = 2.0
"""For what is on its way to clients when we are told to stop."""

IDLE_SECONDS: Final = 75.0
"""How long a connection may bring no whole request: more than load balancers keep an idle one, which is a minute."""

_CLIENT_FILES: Final = ("cdc-counter.js", "socket.io.esm.min.js")


class Gateway:
    """Serves tallies to browsers and applications.

    Routes may be added to `app` until `run` is called. `ready` is set once `url` answers. Raises ConfigError when the
    settings would serve strangers without saying so. The last three parameters are for tests.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        source: TallySource,
        metrics: Metrics,
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        behind_seconds: float = BEHIND_SECONDS,
    ) -> None:
        _refuse_strangers(settings)
        self._settings = settings
        self.ready = asyncio.Event()
        self._url: str | None = None
        origins = Origins(settings.cors_origins, settings.host)
        authority = Authority(settings.auth)
        readings = Readings(source)
        self._arrivals = Arrivals(readings)
        self._engine = Engine(settings, origins, metrics, handshake_seconds=handshake_seconds)
        self._push = Push(
            settings,
            source,
            readings,
            authority,
            self._engine,
            metrics,
            answer_seconds=answer_seconds,
            behind_seconds=behind_seconds,
        )
        open_to_all = authority.required or settings.allow_unauthenticated
        self.app = web.Application(
            middlewares=[counting(metrics), guarding(origins, only_known_hosts=not open_to_all), errors_as_json()]
        )
        self._engine.attach(self.app)
        CounterApi(readings, self._arrivals, authority).attach(self.app)
        Health(source, metrics).attach(self.app)
        self.app.router.add_get("/client/{file}", _client_file)

    @property
    def url(self) -> str:
        """Where it answers, such as `http://127.0.0.1:8400/`; only once bound."""
        if self._url is None:
            raise RuntimeError("the gateway is not bound yet; wait for 'ready'")
        return self._url

    async def run(self, stop: asyncio.Event) -> None:
        """Bind, serve until `stop` is set, let clients finish, return; raises NotReadyError when it can't bind."""
        runner = web.AppRunner(
            self.app,
            access_log=None,
            logger=_server_log(),
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=GRACE_SECONDS,
        )
        await runner.setup()
        try:
            self._url = await self._bind(runner)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._push.run(), name="gateway push"),
                    group.create_task(self._arrivals.run(), name="gateway arrivals"),
                    group.create_task(self._engine.sweep(), name="gateway sweep"),
                ]
                self.ready.set()
                await stop.wait()
                self.ready.clear()
                for site in tuple(runner.sites):
                    await site.stop()
                for task in tasks:
                    task.cancel()
            await self._engine.close(GRACE_SECONDS)
        finally:
            await runner.cleanup()

    async def _bind(self, runner: web.AppRunner) -> str:
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise NotReadyError(
                f"can't listen on {host}:{port}: {error.strerror or error}",
                hint="stop what uses this address, or set another gateway.port",
            ) from error
        bound_port = runner.addresses[0][1]
        return f"http://{f'[{host}]' if ':' in host else host}:{bound_port}/"


def _refuse_strangers(settings: GatewaySettings) -> None:
    if settings.auth is None and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise ConfigError(
            f"gateway.host is {settings.host!r}, which others can reach, and gateway.auth is not set",
            hint="configure [gateway.auth], or set gateway.allow_unauthenticated = true to serve everybody",
        )


def _server_log() -> logging.Logger:
    """Return aiohttp's logger, without what strangers send: their bytes are no fault of ours, and may be a token."""
    log = logging.getLogger(f"{__name__}.http")
    log.addFilter(_is_ours)
    return log


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


async def _client_file(request: web.Request) -> web.FileResponse:
    name = request.match_info["file"]
    if name not in _CLIENT_FILES:
        raise web.HTTPNotFound
    path = Path(str(files("cdc_counter.gateway"))) / "static" / name
    return web.FileResponse(
        path, headers={"Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "no-cache"}
    )
