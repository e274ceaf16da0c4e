"""What every HTTP request passes: host and origin checks, the headers of each answer, the count by route."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from cdc_counter.gateway.engine import PATH
from cdc_counter.gateway.http_api import answer
from cdc_counter.gateway.origins import Origins
from cdc_counter.metrics import Metrics

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines under any name, and they tell no numbers of anybody's."""

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Max-Age": "600",
}


def counting(metrics: Metrics) -> Middleware:
    """Count answers by route pattern: a label per path would be a label per guess of a stranger."""

    @web.middleware
    async def count(request: web.Request, handler: _Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        status = 500
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            metrics.http_requests.labels(route, str(status)).inc()
        return response

    return count


def errors_as_json() -> Middleware:
    """Give aiohttp's own refusals (no such route, wrong method) the same shape as ours."""

    @web.middleware
    async def shape(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPClientError as error:
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return answer({"error": (error.reason or "refused").lower()}, error.status, headers)

    return shape


def guarding(origins: Origins, *, only_known_hosts: bool) -> Middleware:
    """Add CORS headers for listed origins; where nobody needs a token, refuse host names that are not ours.

    Without the latter any web site could have its name point here and read everything as a page of the same origin.
    """

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if only_known_hosts and request.path not in PROBES and not origins.knows_host(request.headers.get("Host")):
            return answer({"error": "host not allowed", "reason": "list its origin in cors_origins"}, 403)
        if request.path == PATH:
            # The Socket.IO library writes these headers itself.
            return await handler(request)
        origin = request.headers.get("Origin")
        listed = origins.is_listed(origin)
        if listed and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: web.StreamResponse = web.Response(status=204, headers=_PREFLIGHT)
        else:
            response = await handler(request)
        if not response.prepared:
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Vary"] = "Origin"
            if listed and origin is not None:
                response.headers["Access-Control-Allow-Origin"] = origin
        return response

    return guard
