"""How we speak HTTP to a neighbour: one client shape, and the one table from what happened to what it means.

=============================================  ======================  =============================================
what happened                                  asked to act (POST)     why
=============================================  ======================  =============================================
no connection: refused, time-out, unknown      NeighbourUnavailable    nothing was sent
  host, no free connection in our pool
request broken off, or no answer in time       OutcomeUnknown          it may have been read and acted upon
connection closed or reset before an answer    OutcomeUnknown          the same
2xx, and the body is what was agreed           the answer
2xx, and the body is something else            OutcomeUnknown          done, but what?
a status that carries a business answer        the answer              402 declined, 409 refused: see each adapter
3xx                                            NeighbourRefused        the address is wrong; a POST is never redirected
400, 401, 403, 404, 409, 422, other 4xx        NeighbourRefused        the same request gets the same no
408                                            NeighbourUnavailable    it did not get the whole request
425, 429                                       NeighbourUnavailable    too early, too much: not taken (Retry-After)
500, 502, 504, other 5xx                       OutcomeUnknown          it broke somewhere on the way
501, 505                                       NeighbourRefused        it cannot do that at all
503                                            NeighbourUnavailable    not taken (Retry-After)
a request that cannot be written down          NeighbourRefused        e.g. a key that is no legal header
=============================================  ======================  =============================================

A look-up (GET) changes nothing, so wherever an action's outcome would be unknown it is just NeighbourUnavailable; its
404 means that the key is unknown.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind
from pydantic import BaseModel, ConfigDict, ValidationError

from models.effects import Undone
from models.errors import NeighbourRefused, NeighbourUnavailable, OrderwrightError, OutcomeUnknown

# One exchange. All exchanges of an attempt together end before the step's start_to_close: see activities.failures.
TIMEOUTS = httpx.Timeout(connect=2.0, pool=2.0, write=3.0, read=8.0)
# Each single read may be in time and the whole still drip in for ever.
WHOLE_EXCHANGE_SECONDS = 12.0
LIMITS = httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=30.0)
LONGEST_RETRY_AFTER = 3600.0

Answer = TypeVar("Answer", bound="Wire")
Json = Mapping[str, object]


class Wire(BaseModel):
    """Base of what a neighbour answers: nothing is converted or guessed; fields we do not know are its own business."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class UndoneAnswer(Wire):
    """What a warehouse or a carrier answers when something is called off."""

    undone: bool
    reason: str

    def meant(self) -> Undone:
        """The same in our words."""
        return Undone(undone=self.undone, reason=self.reason)


class Meaning(Enum):
    """What a failed exchange means for an action. Rows of the table above."""

    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


_BY_STATUS: dict[int, Meaning] = {
    408: Meaning.UNAVAILABLE,
    425: Meaning.UNAVAILABLE,
    429: Meaning.UNAVAILABLE,
    501: Meaning.REFUSED,
    503: Meaning.UNAVAILABLE,
    505: Meaning.REFUSED,
}

# The first row that fits counts. Whatever httpx may invent later falls to "unknown", the careful side.
_BY_FAILURE: tuple[tuple[tuple[type[Exception], ...], Meaning], ...] = (
    ((httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout), Meaning.UNAVAILABLE),
    ((httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError), Meaning.REFUSED),
    ((httpx.RequestError, TimeoutError), Meaning.UNKNOWN),
)


_NONE: Mapping[int, Any] = MappingProxyType({})


def meaning_of_status(status: int) -> Meaning:
    """What a status that is no answer means for an action."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return Meaning.UNKNOWN if status >= 500 or status < 300 else Meaning.REFUSED


def meaning_of_failure(failure: Exception) -> Meaning:
    """What an exchange that broke off means for an action."""
    for kinds, meaning in _BY_FAILURE:
        if isinstance(failure, kinds):
            return meaning
    return Meaning.UNKNOWN


class HttpNeighbour:
    """One neighbour behind a base URL. ``name`` is how errors call it, e.g. "payment provider"."""

    def __init__(self, name: str, base_url: str, client: httpx.AsyncClient, token: str = "") -> None:
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._known_by = {"Authorization": f"Bearer {token}"} if token.strip() else {}

    async def act(
        self,
        path: str,
        *,
        key: str,
        body: Json,
        gives: type[Answer],
        also_answers: Mapping[int, type[Answer]] = _NONE,
    ) -> Answer:
        """POST under an idempotency ``key``. ``also_answers``: statuses beside 2xx that may carry a business answer.

        Raises NeighbourRefused, NeighbourUnavailable or OutcomeUnknown.
        """
        response = await self._exchange(
            "POST", path, acting=True, json=body, headers={"Idempotency-Key": key}
        )
        expected = gives if response.is_success else also_answers.get(response.status_code)
        answer = None if expected is None else _read(response, expected)
        if answer is None:
            raise self._error_of_status("POST", path, response, acting=True)
        return answer

    async def look_up(self, path: str, *, key: str, gives: type[Answer]) -> Answer | None:
        """GET what was done under an idempotency ``key``; None when that is nothing.

        Raises NeighbourRefused or NeighbourUnavailable.
        """
        response = await self._exchange("GET", path, acting=False, params={"key": key})
        if response.status_code == 404:
            return None
        answer = _read(response, gives) if response.is_success else None
        if answer is None:
            raise self._error_of_status("GET", path, response, acting=False)
        return answer

    async def read(self, path: str, *, gives: type[Answer], **query: str | None) -> Answer:
        """GET something that is always there, such as a statement; None values are left out of the query.

        Raises NeighbourRefused or NeighbourUnavailable.
        """
        asked = {name: value for name, value in query.items() if value is not None}
        response = await self._exchange("GET", path, acting=False, params=asked)
        answer = _read(response, gives) if response.is_success else None
        if answer is None:
            raise self._error_of_status("GET", path, response, acting=False)
        return answer

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        acting: bool,
        json: Json | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        sent = self._known_by | dict(headers or {})
        try:
            with self._span(method, path) as span:
                propagate.inject(sent)
                async with asyncio.timeout(WHOLE_EXCHANGE_SECONDS):
                    response = await self._client.request(
                        method, f"{self._base_url}{path}", json=json, params=params, headers=sent
                    )
                span.set_attribute("http.response.status_code", response.status_code)
                return response
        except (httpx.RequestError, httpx.InvalidURL, UnicodeError, TimeoutError) as failure:
            broke = f"{method} {path} broke off with {type(failure).__name__}{_in_brackets(str(failure))}"
            raise self._error(meaning_of_failure(failure), broke, acting=acting) from failure

    def _span(self, method: str, path: str) -> AbstractContextManager[Span]:
        """The exchange as a trace shows it. The query string stays out: it holds a key, and says nothing more."""
        return trace.get_tracer(__name__).start_as_current_span(
            f"{method} {self._name}",
            kind=SpanKind.CLIENT,
            attributes={"http.request.method": method, "url.path": path},
        )

    def _error_of_status(
        self, method: str, path: str, response: httpx.Response, *, acting: bool
    ) -> OrderwrightError:
        said = f"{method} {path} was answered {response.status_code}"
        if response.is_success:
            said += " with a body that is not what was agreed"
        else:
            said += _in_brackets(_explanation(response))
        return self._error(
            meaning_of_status(response.status_code),
            said,
            acting=acting,
            retry_after=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def _error(
        self, meaning: Meaning, what: str, *, acting: bool, retry_after: float | None = None
    ) -> OrderwrightError:
        message = f"{self._name}: {what}"
        if meaning is Meaning.REFUSED:
            return NeighbourRefused(message)
        if meaning is Meaning.UNAVAILABLE or not acting:
            return NeighbourUnavailable(message, retry_after)
        return OutcomeUnknown(message)


@asynccontextmanager
async def open_client(tls: ssl.SSLContext | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """The client that every adapter uses: explicit time-outs, its own bounded pool, no redirects.

    Neighbours are named by URL in the settings, so a proxy from the environment is not used. ``tls`` can be shared:
    making one takes longer than many a request.
    """
    async with httpx.AsyncClient(
        timeout=TIMEOUTS,
        limits=LIMITS,
        follow_redirects=False,
        trust_env=False,
        verify=tls or httpx.create_ssl_context(trust_env=False),
    ) as client:
        yield client


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, at most an hour; None when it says nothing.

    It holds seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        # Longer than any wait that we would keep, and too long for a float to be sure.
        return LONGEST_RETRY_AFTER if len(header) > 6 else min(float(header), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER)


def _read(response: httpx.Response, gives: type[Answer]) -> Answer | None:
    try:
        return gives.model_validate_json(response.content)
    except ValidationError:
        return None


class _Explanation(Wire):
    code: str = ""
    message: str = ""


def _explanation(response: httpx.Response) -> str:
    """The neighbour's own words for a person, cut short; never the body as such, which may hold anything."""
    said = _read(response, _Explanation)
    return "" if said is None else ": ".join(part for part in (said.code, said.message) if part)[:200]


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
