"""What every request passes: size, token, rate, one log line, its metrics, and an answer even to our own faults."""

import hmac
import time
import traceback

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.limits import Budget, caller_of
from apps.api.metrics import Metrics
from apps.api.problems import HeaderTooLarge, RateLimited, UriTooLong, internal_error, response_to
from models.errors import OrderwrightError, Unauthorised
from workers.logging import get_logger
from workers.settings import Settings
from workers.telemetry import trace_id

# Probes come without a token, the documentation holds no secrets, and a webhook is vouched for by its signature.
# Everything else is closed, also what nobody has written yet.
PROBES = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = PROBES | {"/docs", "/openapi.json"}
SIGNED_PREFIX = "/v1/webhooks/"
NEIGHBOURS = frozenset({"payment", "warehouse", "carrier"})

MAX_TARGET_BYTES = 8 * 1024

# Answers are for programs and about somebody's orders: not to be kept, framed, guessed at or run.
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ONLY_BY_TLS = "max-age=31536000"

# Who acts, until a message says who of them: the token is the same for all of our clients.
_CLIENT = "api"

_log = get_logger(__name__)


class Gate:
    """The outermost ASGI layer. Tokens are compared in constant time."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._expected = tuple(f"bearer {token}".encode() for token in settings.api_tokens)
        self._max_header_bytes = settings.api_max_header_bytes
        self._callers = Budget("requests", settings.api_rate, settings.api_burst)
        self._strangers = Budget("strangers", settings.stranger_rate, settings.stranger_burst)
        self._neighbours = Budget("webhooks", settings.webhook_rate, settings.webhook_burst)
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
        asked: str = scope["method"]
        # HEAD is GET without the body, wherever there is a GET.
        inner = {**scope, "method": "GET"} if asked == "HEAD" else scope
        limits: dict[str, str] = {}

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, limits, by_tls=scope.get("scheme") == "https")
            elif asked == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check_size(scope)
            known = self._opens(scope)
            limits |= self._spend(scope, known=known)
            if not known:
                raise Unauthorised("send the API token: Authorization: Bearer …")
            if self._has_token(scope):
                structlog.contextvars.bind_contextvars(actor=_CLIENT)
            await self._app(inner, receive, watched_send)
        except OrderwrightError as refused:
            limits |= getattr(refused, "rate_limits", {})
            await response_to(refused)(scope, receive, watched_send)
        except Exception as fault:
            # Names and places only: a message may quote a customer's name or address.
            _log.error("unexpected_error", error=type(fault).__name__, at=_places(fault))
            if not status:
                await internal_error()(scope, receive, watched_send)
        finally:
            self._record(inner, asked, status or 500, time.perf_counter() - began)

    def _check_size(self, scope: Scope) -> None:
        """Here once more what the server sees to, as a header that comes in one piece passes there."""
        target = len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"])
        if target > MAX_TARGET_BYTES:
            raise UriTooLong(f"the address is longer than the {MAX_TARGET_BYTES:,} bytes that are accepted")
        header = sum(len(name) + len(value) for name, value in scope["headers"])
        if header > self._max_header_bytes:
            raise HeaderTooLarge(
                f"the header is larger than the {self._max_header_bytes:,} bytes that are accepted"
            )

    def _opens(self, scope: Scope) -> bool:
        """Whether the caller may see what is behind: by the token, or because it is open to everybody."""
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(SIGNED_PREFIX):
            return True
        return self._has_token(scope)

    def _has_token(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        offered = f"{scheme.lower()} {token.strip()}".encode()
        opens = False
        for expected in self._expected:
            # All are compared, so that the time taken does not tell which one it was.
            opens |= hmac.compare_digest(offered, expected)
        return opens

    def _spend(self, scope: Scope, *, known: bool) -> dict[str, str]:
        """Take the request off its caller's budget; the header fields that tell of it. Raises ``RateLimited``."""
        path: str = scope["path"]
        if path in PROBES:
            # Whoever watches over us must not be turned away because somebody else behind the same proxy is loud.
            return {}
        caller = caller_of(scope.get("client"))
        neighbour = path.removeprefix(SIGNED_PREFIX)
        if path.startswith(SIGNED_PREFIX) and neighbour in NEIGHBOURS:
            # A budget each, so that a carrier that tells much does not hold up the money.
            budget, caller = self._neighbours, f"{neighbour} {caller}"
        elif known and path not in OPEN_PATHS and not path.startswith(SIGNED_PREFIX):
            budget = self._callers
        else:
            budget = self._strangers
        standing = budget.take(caller)
        fields = budget.headers(standing)
        if standing.wait:
            raise RateLimited(standing.wait, fields)
        return fields

    def _record(self, scope: Scope, asked: str, status: int, seconds: float) -> None:
        method = asked if asked in _METHODS else "other"
        # The template, not the path: ids would make a new time series each.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.latency.labels(method, route).observe(seconds)
        if route not in PROBES:
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _add_headers(start: Message, limits: dict[str, str], *, by_tls: bool) -> None:
    headers = MutableHeaders(raw=list(start.get("headers", ())))
    for name, value in (SECURITY_HEADERS | limits).items():
        headers.setdefault(name, value)
    if by_tls:
        headers.setdefault("Strict-Transport-Security", _ONLY_BY_TLS)
    start["headers"] = headers.raw


def _places(fault: BaseException) -> list[str]:
    frames = traceback.extract_tb(fault.__traceback__)
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
