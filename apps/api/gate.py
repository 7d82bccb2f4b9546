"""What every request passes: the token, one log line, its metrics, and an answer even to our own faults."""

import hmac
import time
import traceback

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.metrics import Metrics
from apps.api.problems import internal_error, response_to
from models.errors import Unauthorised
from workers.logging import get_logger
from workers.telemetry import trace_id

# Probes come without a token, the documentation holds no secrets, and a webhook is vouched for by its signature.
# Everything else is closed, also what nobody has written yet.
PROBES = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = PROBES | {"/docs", "/openapi.json"}
SIGNED_PREFIX = "/v1/webhooks/"

_log = get_logger(__name__)


class Gate:
    """The outermost ASGI layer. ``token`` is compared in constant time."""

    def __init__(self, app: ASGIApp, *, token: str, metrics: Metrics) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(trace_id=trace_id())
        began = time.perf_counter()
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._authenticate(scope)
            await self._app(scope, receive, watched_send)
        except Unauthorised as refused:
            await response_to(refused)(scope, receive, watched_send)
        except Exception as fault:
            # Names and places only: a message may quote a customer's name or address.
            _log.error("unexpected_error", error=type(fault).__name__, at=_places(fault))
            if not status:
                await internal_error()(scope, receive, watched_send)
        finally:
            self._record(scope, status or 500, time.perf_counter() - began)

    def _authenticate(self, scope: Scope) -> None:
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(SIGNED_PREFIX):
            return
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        offered = f"{scheme.lower()} {token.strip()}".encode()
        if not hmac.compare_digest(offered, self._expected):
            raise Unauthorised("send the API token: Authorization: Bearer …")

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # The template, not the path: ids would make a new time series each.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.latency.labels(method, route).observe(seconds)
        if route not in PROBES:
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _places(fault: BaseException) -> list[str]:
    frames = traceback.extract_tb(fault.__traceback__)
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
