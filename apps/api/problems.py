"""Every error answer of the API: RFC 9457 problem details with a stable code, and never anything from inside."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from apps.api import examples
from models.base import Contract
from models.errors import (
    AmendmentRefused,
    AmountChanged,
    Conflict,
    DocumentTooLarge,
    InvalidDocument,
    NeighbourRefused,
    NeverAccepted,
    NotAwaited,
    NotFound,
    NotReachable,
    OrderwrightError,
    PayLinkExpired,
    PayLinkUnknown,
    PayLinkUsed,
    Problem,
    Refused,
    Unauthorised,
)
from workers.logging import get_logger

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

_log = get_logger(__name__)

# Enough to mend a document by; a document made of mistakes must not be answered with a larger one.
MAX_PROBLEMS = 100
MAX_DETAIL = 2_000

_CODES = {
    400: "bad_request",
    401: "unauthorised",
    404: "not_found",
    405: "method_not_allowed",
    413: "document_too_large",
    422: "invalid_request",
}


class ProblemDetails(Contract):
    """The body of every error answer (RFC 9457). Rely on ``code``; the sentences are for people and may change."""

    type: str = Field(description="urn:orderwright:error:CODE")
    title: str
    status: int
    detail: str
    code: str
    problems: tuple[Problem, ...] = Field(
        default=(),
        max_length=MAX_PROBLEMS,
        description="Every single thing that is wrong with the input, where there is one; the first 100",
    )


class InvalidRequest(OrderwrightError):
    """A request whose parameters or small body break their contract; every problem is listed."""

    code = "invalid_request"
    http_status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.path or 'request'}: {p.message}" for p in self.problems))


class UnsupportedMediaType(OrderwrightError):
    """The body is not said to be JSON (`Content-Type: application/json`), or is compressed."""

    code = "unsupported_media_type"
    http_status = 415


class TooSlow(OrderwrightError):
    """The request did not arrive as a whole in the time that is allowed for it."""

    code = "too_slow"
    http_status = 408
    retryable = True


class UriTooLong(OrderwrightError):
    """The address is longer than is accepted."""

    code = "uri_too_long"
    http_status = 414


class HeaderTooLarge(OrderwrightError):
    """The header of the request is larger than is accepted."""

    code = "header_too_large"
    http_status = 431


class Busy(OrderwrightError):
    """The server has as many callers as it can serve at once; `Retry-After` says when to come back."""

    code = "busy"
    http_status = 503
    retryable = True


class BacktestRunning(OrderwrightError):
    """A back test is running, and one runs at a time."""

    code = "backtest_running"
    http_status = 409
    retryable = True


class RateLimited(OrderwrightError):
    """More requests than one caller may make; `Retry-After` says in how many seconds the next one is served."""

    code = "rate_limited"
    http_status = 429
    retryable = True

    def __init__(self, wait_seconds: float) -> None:
        self.retry_after_seconds = math.ceil(wait_seconds)
        super().__init__(f"too many requests: the next one is served in {self.retry_after_seconds} s")


def problem_response(
    status: int,
    code: str,
    detail: str,
    problems: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One error answer. A 401 says how to authenticate and a 503 when to come back."""
    document = ProblemDetails(
        type=f"urn:orderwright:error:{code}",
        title=_phrase(status),
        status=status,
        detail=detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…",
        code=code,
        problems=tuple(islice(problems, MAX_PROBLEMS)),
    )
    extra = dict(headers or {})
    if status == HTTPStatus.UNAUTHORIZED:
        extra.setdefault("WWW-Authenticate", "Bearer")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return Response(document.model_dump_json(), status, extra, MEDIA_TYPE)


def response_to(error: OrderwrightError) -> Response:
    """The answer to one of our own errors."""
    problems = (
        error.problems if isinstance(error, InvalidDocument | InvalidRequest | AmendmentRefused) else ()
    )
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, RateLimited) else {}
    if isinstance(error, TooSlow):
        # What is still on its way belongs to the request that was given up.
        headers["Connection"] = "close"
    return problem_response(error.http_status, error.code, error.message, problems, headers)


def internal_error() -> Response:
    """The answer to a fault of ours: the caller learns that it is ours, and nothing else."""
    return problem_response(500, "internal", "Something went wrong on our side; it has been logged.")


def problems_of(invalid: ValidationError) -> tuple[Problem, ...]:
    """What pydantic found, without the values: they may be somebody's name or address."""
    errors = invalid.errors(include_url=False, include_input=False, include_context=False)
    within = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    # A list whose every item is wrong is also said to have none, which is not what was sent.
    return _without_values(
        error for error in errors if not (error["type"] == "too_short" and error["loc"] in within)
    )


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of error answers with these statuses, each with an example."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, detail = examples.PROBLEMS[status]
        example = ProblemDetails(
            type=f"urn:orderwright:error:{code}",
            title=_phrase(status),
            status=status,
            detail=detail,
            code=code,
            problems=tuple(Problem(**problem) for problem in examples.PROBLEM_LISTS.get(status, ())),
        )
        described[status] = {
            "description": _phrase(status),
            "headers": _HEADERS.get(status, {}),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"},
                    "example": example.model_dump(mode="json"),
                }
            },
        }
    return described


_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the same request again",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_HEADERS = {
    401: {
        "WWW-Authenticate": {
            "description": "How to authenticate",
            "required": True,
            "schema": {"type": "string", "const": "Bearer"},
        }
    },
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def answered_codes() -> Iterator[tuple[str, int, str, bool]]:
    """Every code that an answer can have: with its status, what it means, and whether trying again may help."""
    for error in (
        Unauthorised,
        NotFound,
        NeverAccepted,
        InvalidDocument,
        InvalidRequest,
        DocumentTooLarge,
        Conflict,
        Refused,
        AmendmentRefused,
        NotAwaited,
        PayLinkUnknown,
        PayLinkUsed,
        AmountChanged,
        PayLinkExpired,
        TooSlow,
        UriTooLong,
        HeaderTooLarge,
        UnsupportedMediaType,
        RateLimited,
        Busy,
        BacktestRunning,
        NotReachable,
        NeighbourRefused,
    ):
        yield error.code, error.http_status, " ".join((error.__doc__ or "").split()), error.retryable
    yield "bad_request", 400, "It is no HTTP request that could be read.", False
    yield "method_not_allowed", 405, "The path exists, but does not take this method.", False
    yield "internal", 500, "Something went wrong on our side; it has been logged.", True


def install_problem_handlers(app: FastAPI) -> None:
    """Make ``app`` answer all its errors as problem details."""

    @app.exception_handler(OrderwrightError)
    async def ours(_request: Request, error: OrderwrightError) -> Response:
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.warning("request_failed", code=error.code, reason=error.message)
        return response_to(error)

    @app.exception_handler(HTTPException)
    async def frameworks(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The framework names those of one route only, and a path may have several.
            headers["Allow"] = ", ".join(sorted(_methods_at(app, request.scope)))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        code = _CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
        return problem_response(error.status_code, code, error.detail, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(_request: Request, error: RequestValidationError) -> Response:
        return response_to(InvalidRequest(_without_values(error.errors(), skip=("query", "path", "header"))))


def _methods_at(app: FastAPI, scope: Scope) -> set[str]:
    found = {
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.router.routes)
    }
    return found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set())


# As in RFC 9110; what Python calls them depends on its version.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def _without_values(errors: Iterable[Any], skip: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    return tuple(
        Problem(path=_path(error["loc"], skip), code=error["type"], message=_sentence(error["msg"]))
        for error in errors
    )


def _path(location: Sequence[int | str], skip: tuple[str, ...]) -> str:
    path = ""
    for part in location[1:] if location and location[0] in skip else location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]
