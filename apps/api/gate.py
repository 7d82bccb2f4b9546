"""What every request passes: size, token, rate, one log line, its metrics, and an answer even to our own faults."""

import hmac
import time
import traceback

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.limits import VOUCHED, Account, Budgets
from apps.api.metrics import Metrics
from apps.api.problems import HeaderTooLarge, UriTooLong, internal_error, response_to
from models.errors import OrderwrightError, Unauthorised
from workers.logging import get_logger
from workers.settings import Settings
from workers.telemetry import trace_id

# Probes come without a token, the documentation holds no secrets, a webhook is vouched for by its signature, and so is
# a pay link. Everything else is closed, also what nobody has written yet.
PROBES = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = PROBES | {"/docs", "/openapi.json"}
METRICS_PATH = "/metrics"
SIGNED_PREFIX = "/v1/webhooks/"
# Whoever holds a pay link may use it; its signature is looked at by apps.api.tenders.
LINK_PREFIX = "/v1/pay/"
NEIGHBOURS = frozenset({"payment", "warehouse", "carrier"})

# Where the state of a request holds the method that was asked for.
ASKED = "asked"
# How long these take says how long somebody listened.
STREAMS = frozenset({"/v1/availability/stream"})

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
        self._expected = _bearing(settings.api_tokens)
        # Who scrapes need not be able to call off orders.
        self._expected_for_metrics = self._expected + _bearing((settings.metrics_token,))
        self._max_header_bytes = settings.api_max_header_bytes
        self._budgets = Budgets.of(settings)
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
        state = scope.get("state", {})
        account = Account(self._budgets, scope.get("client"), state.get(VOUCHED, lambda: None))
        # HEAD is GET without the body, wherever there is a GET.
        method = "GET" if asked == "HEAD" else asked
        inner = {**scope, "method": method, "state": {**state, "account": account, ASKED: asked}}

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, account.fields, by_tls=scope.get("scheme") == "https")
            elif asked == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check_size(scope)
            known = self._opens(inner)
            self._spend(inner, account, known=known)
            if not known:
                raise Unauthorised("send the API token: Authorization: Bearer …")
            if _has_token(scope, self._expected):
                account.vouched()
                structlog.contextvars.bind_contextvars(actor=_CLIENT)
            await self._app(inner, receive, watched_send)
        except OrderwrightError as refused:
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
        if path in OPEN_PATHS or path.startswith((SIGNED_PREFIX, LINK_PREFIX)):
            return True
        for_metrics = path == METRICS_PATH and scope["method"] == "GET"
        return _has_token(scope, self._expected_for_metrics if for_metrics else self._expected)

    def _spend(self, scope: Scope, account: Account, *, known: bool) -> None:
        """Take the request off its caller's budget. Raises ``RateLimited``."""
        path: str = scope["path"]
        if path in PROBES:
            # Whoever watches over us must not be turned away because somebody else behind the same proxy is loud.
            return
        signed = path.startswith(SIGNED_PREFIX)
        if signed and scope["method"] == "POST" and path.removeprefix(SIGNED_PREFIX) in NEIGHBOURS:
            # On whose account it goes shows by its signature: apps.api.webhooks spends.
            return
        closed = known and not signed and path not in OPEN_PATHS
        if path.startswith(LINK_PREFIX):
            # A shop's page that passes on what its customers say may show that it is the shop's.
            closed = _has_token(scope, self._expected)
        account.spend(self._budgets.callers if closed else self._budgets.strangers)

    def _record(self, scope: Scope, asked: str, status: int, seconds: float) -> None:
        method = asked if asked in _METHODS else "other"
        # The template, not the path: ids would make a new time series each.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(method, route, str(status)).inc()
        if route not in STREAMS:
            self._metrics.latency.labels(method, route).observe(seconds)
        if route not in PROBES:
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _bearing(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f"bearer {token}".encode() for token in tokens if token.strip())


def _has_token(scope: Scope, every_expected: tuple[bytes, ...]) -> bool:
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    offered = f"{scheme.lower()} {token.strip()}".encode()
    opens = False
    for expected in every_expected:
        # All are compared, so that the time taken does not tell which one it was.
        opens |= hmac.compare_digest(offered, expected)
    return opens


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
