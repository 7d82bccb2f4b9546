"""What all simulators have in common: settings, HTTP with idempotency keys, health, statement, start and stop."""

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Generic, TypeVar

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from apps.simulators.courier import Courier
from apps.simulators.faults import Faults
from apps.simulators.ledger import Effect, KeptAnswer, Ledger
from apps.simulators.misbehaving import Misbehaving
from apps.simulators.statement import statement_of
from models.base import Document

MAX_KEY_LENGTH = 255
MOST_LINES = 500
_LINES = 200

Body = dict[str, object]
Asked_ = TypeVar("Asked_", bound=Document)


@dataclass(frozen=True)
class Settings:
    """How one simulator behaves. ``nodes`` empty: the warehouse knows every node.

    ``token`` opens its statement to whoever shows it as a bearer; without one the statement is closed.
    """

    seed: int
    speed: float
    notify: bool = False
    hold_days: float = 7.0
    nodes: frozenset[str] = frozenset()
    token: str = ""


@dataclass(frozen=True)
class Desk:
    """What a simulator works with."""

    ledger: Ledger
    courier: Courier
    settings: Settings
    faults: Faults


@dataclass(frozen=True)
class Asked(Generic[Asked_]):
    """One well-formed request: its idempotency key, its body, and the ids in its path."""

    key: str
    body: Asked_
    path: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """An HTTP status and a JSON body. Everything decided is kept, a refusal as well as a success."""

    status: HTTPStatus
    body: Body


Decide = Callable[[Desk, Asked[Asked_]], Answer]
Show = Callable[[Effect], Body]


def refusal(status: HTTPStatus, code: str, message: str) -> Answer:
    """No, with a stable code and a sentence."""
    return Answer(status, {"code": code, "message": message})


def new_id(prefix: str) -> str:
    """An id such as ``cap_5f0c…``."""
    return f"{prefix}_{uuid.uuid4().hex[:20]}"


def effect_route(desk: Desk, path: str, takes: type[Asked_], decide: Decide[Asked_]) -> Route:
    """``POST path``: decide once per idempotency key, in one transaction, and repeat that answer for ever after."""

    async def endpoint(request: Request) -> Response:
        key = request.headers.get("idempotency-key", "")
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            return _json(
                refusal(
                    HTTPStatus.BAD_REQUEST,
                    "key_missing",
                    f"send an Idempotency-Key header of 1 to {MAX_KEY_LENGTH} characters",
                )
            )
        try:
            body = takes.model_validate_json(await request.body())
        except ValidationError as invalid:
            return _json(refusal(HTTPStatus.BAD_REQUEST, "malformed", _first_problem(invalid)))
        fingerprint = hashlib.sha256(f"{request.url.path}\n{body.model_dump_json()}".encode()).hexdigest()
        with desk.ledger.transaction():
            kept = desk.ledger.answer(key)
            if kept is None:
                answer = decide(desk, Asked(key=key, body=body, path=request.path_params))
                kept = KeptAnswer(
                    fingerprint=fingerprint, status=int(answer.status), body=json.dumps(answer.body)
                )
                desk.ledger.keep_answer(key, kept)
        desk.courier.look_again()
        if kept.fingerprint != fingerprint:
            return _json(
                refusal(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "key_reused",
                    "this Idempotency-Key was used for another request",
                )
            )
        return Response(kept.body, status_code=kept.status, media_type="application/json")

    return Route(path, endpoint, methods=["POST"])


def look_up_route(desk: Desk, path: str, kind: str, show: Show) -> Route:
    """``GET path?key=``: what was done under an idempotency key, 404 when nothing was."""

    async def endpoint(request: Request) -> Response:
        found = desk.ledger.effect_of(kind, request.query_params.get("key", ""))
        if found is None:
            return _json(refusal(HTTPStatus.NOT_FOUND, "unknown_key", f"no {kind} was made under this key"))
        return _json(Answer(HTTPStatus.OK, show(found)))

    return Route(path, endpoint, methods=["GET"])


def statement_route(desk: Desk, kinds: Sequence[str], show: Show) -> Route:
    """``GET /statement/lines``: what was done and changed, a page at a time, for who shows the token.

    ``since`` and ``until`` bound the time of change (RFC 3339, ``until`` not included), ``after`` is the ``next`` of
    the page before, ``limit`` at most 500. With ``reference`` only, and then all, of one order or shipment.
    """

    async def endpoint(request: Request) -> Response:
        if not _is_ours(request, desk.settings.token):
            return _json(
                refusal(HTTPStatus.UNAUTHORIZED, "unauthorised", "the statement is for who shows the token")
            )
        asked = request.query_params
        if reference := asked.get("reference"):
            effects = [effect for effect in desk.ledger.effects_for(reference) if effect.kind in kinds]
            return _json(Answer(HTTPStatus.OK, {"lines": [show(effect) for effect in effects], "next": None}))
        try:
            since, until = (_moment(asked.get(name)) for name in ("since", "until"))
            changed_at, _, effect_id = asked.get("after", "").partition("|")
            limit = int(asked.get("limit", _LINES))
            if not 1 <= limit <= MOST_LINES:
                raise ValueError(f"limit must be 1 to {MOST_LINES}")
        except ValueError as error:
            return _json(refusal(HTTPStatus.BAD_REQUEST, "malformed", str(error)))
        found = desk.ledger.changed(since or "", until or "9", (changed_at, effect_id), limit)
        after = f"{found[-1].changed_at}|{found[-1].effect_id}" if len(found) == limit else None
        lines = [show(effect) for effect in found if effect.kind in kinds]
        return _json(Answer(HTTPStatus.OK, {"lines": lines, "next": after}))

    return Route("/statement/lines", endpoint, methods=["GET"])


def _is_ours(request: Request, token: str) -> bool:
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    return bool(token) and hmac.compare_digest(shown.encode(), token.encode())


def _moment(text: str | None) -> str | None:
    """A time as it is written down here, so that text compares as time does."""
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no zone")
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def application(name: str, desk: Desk, routes: Sequence[Route]) -> Misbehaving:
    """The simulator ``name`` as an ASGI application that also delivers its webhooks."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"simulator": name, "webhooks": desk.ledger.webhook_counts()})

    async def statement(_: Request) -> Response:
        return JSONResponse(statement_of(name, desk.ledger.effects()))

    app = Starlette(
        routes=[Route("/healthz", healthz), Route("/statement", statement), *routes],
        lifespan=lambda _: desk.courier.delivering(),
    )
    return Misbehaving(app, desk.faults)


def serve(app: ASGIApp, *, host: str, port: int) -> None:
    """Serve until a signal ends it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run()


def _json(answer: Answer) -> Response:
    return JSONResponse(answer.body, status_code=int(answer.status))


def _first_problem(invalid: ValidationError) -> str:
    problem = invalid.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place or 'body'}: {problem['msg']}"
