"""Subscribers over HTTP: who is told of what, how far each has come, and what one of them did not take."""

import re
import secrets
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Request, Response

from activities.store import subscribers
from activities.store.subscribers import SubscriberView
from apps.api import examples
from apps.api.bodies import body_of, read_message
from apps.api.contracts import (
    DeadLetters,
    DropRequest,
    NewSecret,
    NewSubscriber,
    ReplayRequest,
    Retried,
    RetryRequest,
    SecretRequest,
    SubscriberAdded,
    Subscribers,
)
from apps.api.parts import PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from models.errors import Conflict, NotFound, Problem, Refused
from models.outbox import SUBSCRIBER_ID_PATTERN, address_problem

router = APIRouter(
    prefix="/v1/subscribers", tags=["subscribers"], dependencies=[Depends(only_known_parameters)]
)

# Each is a backlog to keep and a dispatcher to run: more of them are a mistake, such as one per customer.
MAX_SUBSCRIBERS = 50

ASubscriber = Annotated[
    str,
    Path(
        description="The subscriber's id",
        examples=["erp"],
        json_schema_extra={"pattern": SUBSCRIBER_ID_PATTERN},
    ),
]
# Another one than is removed in an example: whoever tries all of them out still finds it.
WhoFailed = Annotated[
    str,
    Path(
        description="The subscriber's id",
        examples=["wms"],
        json_schema_extra={"pattern": SUBSCRIBER_ID_PATTERN},
    ),
]
APosition = Annotated[int, Path(description="The position of the event", examples=[4711], ge=0, le=2**63 - 1)]
_SHOWN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": examples.SUBSCRIBER}}}
}


@router.post(
    "",
    status_code=201,
    summary="Subscribe",
    openapi_extra=body_of(NewSubscriber, {"an ERP": examples.NEW_SUBSCRIBER}),
    responses=answers(401, 409, 413, 422, 503)
    | {201: {"content": {"application/json": {"example": examples.SUBSCRIBER_ADDED}}}},
)
async def add_subscriber(request: Request, parts: PartsOf) -> SubscriberAdded:
    """Have everything of some topics posted to an address, from now on. The answer holds the secret that signs it.

    The secret is not shown again. Give your own, and the same request can be sent again after a lost answer.
    """
    wanted = await read_message(request, NewSubscriber, parts.settings.api_body_seconds)
    if problem := address_problem(wanted.url):
        raise InvalidRequest([Problem(path="url", code="bad_address", message=problem)])
    _bind(wanted.subscriber_id)
    secret = wanted.secret or secrets.token_hex(32)
    async with parts.store.transaction() as session:
        await subscribers.hold_all(session)
        known = {one.subscriber_id: one for one in await subscribers.all_subscribers(session)}
        if (there := known.get(wanted.subscriber_id)) is not None:
            same = (there.url, set(there.topics)) == (wanted.url, set(wanted.topics))
            if wanted.secret and same and await subscribers.signs_with(session, wanted.subscriber_id, secret):
                return SubscriberAdded(subscriber=there, secret=secret)
            raise Conflict(
                f"there is a subscriber {wanted.subscriber_id} already: remove it first, or take another id"
            )
        if len(known) >= MAX_SUBSCRIBERS:
            raise Refused(
                f"there are {len(known)} subscribers, and no more than {MAX_SUBSCRIBERS} are served"
            )
        await subscribers.add(
            session,
            subscriber_id=wanted.subscriber_id,
            name=wanted.name or wanted.subscriber_id,
            url=wanted.url,
            topics=wanted.topics,
            secret=secret,
        )
        added = await subscribers.subscriber(session, wanted.subscriber_id)
    return SubscriberAdded(subscriber=added, secret=secret)


@router.get(
    "",
    summary="List subscribers",
    responses=answers(401, 503) | {200: {"content": {"application/json": {"example": examples.SUBSCRIBERS}}}},
)
async def list_subscribers(parts: PartsOf) -> Subscribers:
    """All of them, the oldest first, with what waits for each."""
    async with parts.store.transaction() as session:
        return Subscribers(subscribers=tuple(await subscribers.all_subscribers(session)))


@router.get("/{subscriber_id}", summary="Look at a subscriber", responses=answers(401, 404, 503) | _SHOWN)
async def show_subscriber(subscriber_id: ASubscriber, parts: PartsOf) -> SubscriberView:
    """How far it has come, what waits for it, and why."""
    _check(subscriber_id)
    async with parts.store.transaction() as session:
        return await subscribers.subscriber(session, subscriber_id)


@router.post(
    "/{subscriber_id}/pause", summary="Pause a subscriber", responses=answers(401, 404, 503) | _SHOWN
)
async def pause_subscriber(subscriber_id: ASubscriber, parts: PartsOf) -> SubscriberView:
    """Send it nothing for a while. What happens meanwhile waits for it, and is kept until it was sent."""
    return await _set_active(subscriber_id, parts, active=False)


@router.post(
    "/{subscriber_id}/resume", summary="Resume a subscriber", responses=answers(401, 404, 503) | _SHOWN
)
async def resume_subscriber(subscriber_id: ASubscriber, parts: PartsOf) -> SubscriberView:
    """Send it what has waited, and what comes."""
    return await _set_active(subscriber_id, parts, active=True)


@router.delete(
    "/{subscriber_id}",
    status_code=204,
    summary="Remove a subscriber",
    response_class=Response,
    responses=answers(401, 404, 503),
)
async def remove_subscriber(subscriber_id: ASubscriber, parts: PartsOf) -> None:
    """Forget it, its secret, and everything that waits for it."""
    _check(subscriber_id)
    async with parts.store.transaction() as session:
        await subscribers.remove(session, subscriber_id)


@router.post(
    "/{subscriber_id}/secret",
    summary="Exchange a subscriber's secret",
    openapi_extra=body_of(SecretRequest, {"your own": examples.SECRET_REQUEST, "one of ours": {}}),
    responses=answers(401, 404, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.NEW_SECRET}}}},
)
async def change_secret(subscriber_id: ASubscriber, request: Request, parts: PartsOf) -> NewSecret:
    """Sign with another secret from now on. Have the receiver accept both first: then nothing is refused meanwhile."""
    _check(subscriber_id)
    wish = await read_message(request, SecretRequest, parts.settings.api_body_seconds)
    secret = wish.secret or secrets.token_hex(32)
    async with parts.store.transaction() as session:
        await subscribers.change_secret(session, subscriber_id, secret)
    return NewSecret(subscriber_id=subscriber_id, secret=secret)


@router.post(
    "/{subscriber_id}/replay",
    summary="Send events once more",
    openapi_extra=body_of(ReplayRequest, {"from a position": examples.REPLAY}),
    responses=answers(401, 404, 409, 413, 422, 503) | _SHOWN,
)
async def replay_subscriber(subscriber_id: ASubscriber, request: Request, parts: PartsOf) -> SubscriberView:
    """Send everything from a position on once more, under the ids that it had: who has applied it, drops it by these.

    `409`: it is not kept any more, or something before it has not been sent yet; `detail` says from where it can be.
    """
    _check(subscriber_id)
    wish = await read_message(request, ReplayRequest, parts.settings.api_body_seconds)
    async with parts.store.transaction() as session:
        await subscribers.replay(session, subscriber_id, wish.position)
        return await subscribers.subscriber(session, subscriber_id)


@router.get(
    "/{subscriber_id}/dead-letters",
    summary="List what a subscriber did not take",
    responses=answers(401, 404, 503)
    | {200: {"content": {"application/json": {"example": examples.DEAD_LETTERS}}}},
)
async def list_dead_letters(subscriber_id: WhoFailed, parts: PartsOf) -> DeadLetters:
    """Events that were tried as often as is tried; what comes behind them of the same key waits. The first 1,000."""
    _check(subscriber_id)
    async with parts.store.transaction() as session:
        return DeadLetters(dead_letters=tuple(await subscribers.dead_letters(session, subscriber_id)))


@router.post(
    "/{subscriber_id}/dead-letters/retry",
    summary="Try dead letters again",
    openapi_extra=body_of(RetryRequest, {"one": examples.RETRY, "all": {}}),
    responses=answers(401, 404, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": {"retried": 1}}}}},
)
async def retry_dead_letters(subscriber_id: ASubscriber, request: Request, parts: PartsOf) -> Retried:
    """Try the one at `position` again at once, or all of them, as often as a new event is tried.

    `retried` 0: there is none that is dead.
    """
    _check(subscriber_id)
    wish = await read_message(request, RetryRequest, parts.settings.api_body_seconds)
    async with parts.store.transaction() as session:
        return Retried(retried=await subscribers.retry(session, subscriber_id, wish.position))


@router.post(
    "/{subscriber_id}/dead-letters/{position}/drop",
    summary="Drop a dead letter",
    openapi_extra=body_of(DropRequest, {"entered by hand": examples.DROP}),
    responses=answers(401, 404, 413, 422, 503) | _SHOWN,
)
async def drop_dead_letter(
    subscriber_id: WhoFailed, position: APosition, request: Request, parts: PartsOf
) -> SubscriberView:
    """Never send this event: its key goes on with what comes behind it. Who decided that and why is kept.

    Doing it again changes nothing.
    """
    _check(subscriber_id)
    wish = await read_message(request, DropRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=wish.actor)
    async with parts.store.transaction() as session:
        await subscribers.drop(session, subscriber_id, position, actor=wish.actor, reason=wish.reason)
        return await subscribers.subscriber(session, subscriber_id)


async def _set_active(subscriber_id: str, parts: PartsOf, *, active: bool) -> SubscriberView:
    _check(subscriber_id)
    async with parts.store.transaction() as session:
        await subscribers.set_active(session, subscriber_id, active=active)
        return await subscribers.subscriber(session, subscriber_id)


def _check(subscriber_id: str) -> None:
    """Raise ``NotFound`` for what cannot be a subscriber's id, which the database need not hear of."""
    if re.fullmatch(SUBSCRIBER_ID_PATTERN, subscriber_id) is None:
        raise NotFound("there is no such subscriber: an id is made of small letters, digits and dashes")
    _bind(subscriber_id)


def _bind(subscriber_id: str) -> None:
    structlog.contextvars.bind_contextvars(subscriber=subscriber_id)
