"""Another means of payment for an order whose payment was declined: by the shop, or by its customer's pay link.

It is stored first and told to the order's run afterwards. Should we die in between, or Temporal be away, the sweeper
tells it: what a customer has given is not asked for twice.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Request, Response

from activities.store import tenders
from activities.store.tenders import Offered
from apps.api import examples
from apps.api.asking import ask_or_leave, new_request_id
from apps.api.bodies import body_of, read_message
from apps.api.contracts import PaymentDue, PayRequest, Queued, TenderRequest, TenderTaken
from apps.api.orders import AnOrder, known_order
from apps.api.parts import Parts, PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.errors import NotAwaited, NotReachable, Refused
from models.identifiers import order_workflow_id
from models.messages import OfferAnswer
from models.order import TenderKind
from models.tender import CUSTOMER, MAX_PAY_TOKEN, PayLink, TenderState, read_pay_token
from workers.logging import get_logger

router = APIRouter(dependencies=[Depends(only_known_parameters)])

_log = get_logger(__name__)

# Only described: what does not look like a pay link's token is none of ours, like one with a wrong signature.
APayToken = Annotated[
    str,
    Path(
        description="What the pay link ends in, as it was sent to the customer",
        examples=[examples.PAY_TOKEN],
        json_schema_extra={"pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$", "maxLength": MAX_PAY_TOKEN},
    ),
]
_TAKEN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": examples.TENDER_TAKEN}}},
    202: {
        "model": Queued,
        "description": "Stored; the order's run could not be asked and is told as soon as it can be",
        "content": {"application/json": {"example": examples.TENDER_QUEUED}},
    },
}


@router.post(
    "/v1/orders/{order_id}/tenders",
    tags=["orders"],
    summary="Offer another means of payment",
    openapi_extra=body_of(
        TenderRequest,
        {"another card": examples.TENDER, "on account, its limit being raised": examples.TENDER_ON_ACCOUNT},
    ),
    responses=answers(401, 404, 409, 413, 422, 503) | _TAKEN,
)
async def offer_tender(
    order_id: AnOrder, request: Request, response: Response, parts: PartsOf
) -> TenderTaken | Queued:
    """Give an order that is `awaiting_customer` another means of payment; its run tries that at once.

    It takes over the part that was declined, with its amount; what else pays the order stays. A card's token is the
    payment provider's; `on_account`, `gift_card` and `store_credit` go by the account's id or the code.

    For shops that ask their customer themselves. Whether it was approved shows in the order's state: it goes on, or it
    waits again. With the same `request_id` a repeat changes nothing.
    """
    wish = await read_message(request, TenderRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=wish.actor)
    await known_order(parts, order_id)
    async with parts.store.transaction() as session:
        offered = await tenders.offer(
            session,
            order_id,
            kind=wish.kind,
            token=wish.token,
            request_id=wish.request_id or new_request_id(),
            actor=wish.actor,
        )
    return await _told(parts, offered, response)


@router.get(
    "/v1/pay/{token}",
    tags=["pay"],
    summary="What a pay link asks for",
    openapi_extra={"security": []},
    responses=answers(404, 409, 410, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PAYMENT_DUE}}}},
)
async def show_payment(token: APayToken, parts: PartsOf) -> PaymentDue:
    """The amount, the shop's order number, and until when. No name, no address, no goods: a link can be passed on."""
    link = _link(parts, token)
    async with parts.store.transaction() as session:
        asked = await tenders.asked_by(session, link)
    return PaymentDue(order_number=asked.order_number, amount=asked.amount, until=link.until)


@router.post(
    "/v1/pay/{token}",
    tags=["pay"],
    summary="Pay by another means",
    openapi_extra={"security": []} | body_of(PayRequest, {"another card": examples.PAY}),
    responses=answers(404, 409, 410, 413, 422, 503) | _TAKEN,
)
async def pay_by_link(
    token: APayToken, request: Request, response: Response, parts: PartsOf
) -> TenderTaken | Queued:
    """Exchange the link for a new token of the payment provider. The link is the authority: no API token is needed.

    It is good for one tender, which takes over the part that was declined: never is another amount held on it than
    `GET` shows. Send that back as `amount`, and one that has changed meanwhile is `409` `amount_changed`.

    The same token again is answered like the first time; another one is `409` `pay_link_used`. Should the new one be
    declined too, the customer is sent a new link.
    """
    link = _link(parts, token)
    structlog.contextvars.bind_contextvars(actor=CUSTOMER)
    wish = await read_message(request, PayRequest, parts.settings.api_body_seconds)
    async with parts.store.transaction() as session:
        offered = await tenders.offer_by_link(
            session, link, kind=TenderKind.CARD, token=wish.token, shown=wish.amount
        )
    return await _told(parts, offered, response)


async def tell_run(parts: Parts, offered: Offered) -> OfferAnswer | Queued:
    """Tell the order's run of a stored tender, and note what became of it. Being told twice, it tries it once.

    Raises ``NotAwaited`` when the run does not want it (any more); ``NotReachable`` while Temporal does not answer.
    """
    message = offered.message
    try:
        answer = await ask_or_leave(
            parts.runs,
            order_workflow_id(offered.order_id),
            update="offer_tender",
            question=message,
            gives=OfferAnswer,
            signal="offer_tender",
            message=message,
            request_id=message.request_id,
        )
    except Refused as refused:
        await _settle(parts, offered, TenderState.REFUSED)
        raise NotAwaited(refused.message) from refused
    if isinstance(answer, OfferAnswer) and not answer.taken:
        await _settle(parts, offered, TenderState.REFUSED)
        raise NotAwaited(answer.message)
    await _settle(parts, offered, TenderState.TAKEN)
    return answer


async def _told(parts: Parts, offered: Offered, response: Response) -> TenderTaken | Queued:
    structlog.contextvars.bind_contextvars(order_id=offered.order_id)
    if offered.state is TenderState.REFUSED:
        raise NotAwaited("this tender came when it was not wanted: offer it again under another request_id")
    answer: OfferAnswer | Queued
    if offered.state is TenderState.TAKEN:
        answer = OfferAnswer(taken=True, message="this tender was taken before: look at the order's state")
    else:
        try:
            answer = await tell_run(parts, offered)
        except NotReachable as away:
            _log.warning("tender_not_told", reason=away.message)
            answer = Queued(request_id=offered.request_id)
    if isinstance(answer, Queued):
        response.status_code = 202
        return answer
    return TenderTaken(request_id=offered.request_id, tender=offered.number, message=answer.message)


async def _settle(parts: Parts, offered: Offered, state: TenderState) -> None:
    async with parts.store.transaction() as session:
        await tenders.settle_offer(session, offered, state)


def _link(parts: Parts, token: str) -> PayLink:
    link = read_pay_token(parts.settings.pay_link_secrets, token, datetime.now(UTC))
    structlog.contextvars.bind_contextvars(
        order_id=link.order_id, workflow_id=order_workflow_id(link.order_id)
    )
    return link
