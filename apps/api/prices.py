"""Price lists of business customers over HTTP: loaded, assigned, looked at, and asked for a price."""

from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request

from activities.store import prices
from activities.store.prices import Customer
from apps.api import examples
from apps.api.bodies import body_of, parse_message, read_body, read_message
from apps.api.contracts import PriceAssignmentRequest, PriceListRequest
from apps.api.parts import PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from models.base import SentMoment
from models.errors import Problem
from models.identifiers import Sku
from models.money import Currency
from models.order import MAX_DOCUMENT_BYTES, MAX_QUANTITY
from models.prices import (
    AgreedPrice,
    AssigneeName,
    PriceListContent,
    PriceListId,
    PriceListLoaded,
    PriceLists,
    PriceListView,
)
from policies import strict_json
from policies.pricing import problems_of_list

router = APIRouter(prefix="/v1", tags=["prices"], dependencies=[Depends(only_known_parameters)])

AList = Annotated[PriceListId, Path(description="The list's id", examples=["trade-2026"])]


@router.post(
    "/price-lists",
    summary="Load a price list",
    openapi_extra=body_of(PriceListRequest, {"a list with a break": examples.PRICE_LIST_REQUEST}),
    responses=answers(401, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PRICE_LIST_LOADED}}}},
)
async def load_price_list(request: Request, parts: PartsOf) -> PriceListLoaded:
    """The whole list: all of it is loaded as the list's next version, or nothing. As it is already, it stays.

    Orders are checked against the version that was loaded last. Prices that hold from a day on are a list of their own.
    """
    raw = await read_body(request, MAX_DOCUMENT_BYTES, parts.settings.api_body_seconds)
    asked = parse_message(raw, PriceListRequest)
    if unfit := (*strict_json.unstorable_text(asked.model_dump(mode="json")), *problems_of_list(asked)):
        raise InvalidRequest(unfit)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        return await prices.load(session, asked, actor=asked.actor, reason=asked.reason)


@router.get(
    "/price-lists",
    summary="List the price lists",
    responses=answers(401, 503) | {200: {"content": {"application/json": {"example": examples.PRICE_LISTS}}}},
)
async def list_price_lists(parts: PartsOf) -> PriceLists:
    """Every price list, when it holds and for whom."""
    async with parts.store.transaction() as session:
        return PriceLists(lists=await prices.price_lists(session))


@router.get(
    "/price-lists/{list_id}",
    summary="Look at a price list",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PRICE_LIST_CONTENT}}}},
)
async def show_price_list(
    *,
    list_id: AList,
    parts: PartsOf,
    sku: Annotated[Sku | None, Query(description="Only this one's prices")] = None,
    from_sku: Annotated[
        Sku | None, Query(description="From this one on: `next_sku` of the answer before")
    ] = None,
    version: Annotated[
        int | None, Query(ge=1, le=2_000_000_000, description="An earlier version; default: the one in force")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="How many SKUs")] = 100,
) -> PriceListContent:
    """A list and its prices, by SKU and quantity."""
    async with parts.store.transaction() as session:
        return await prices.content(
            session, list_id, sku=sku, from_sku=from_sku, version=version, limit=limit
        )


@router.post(
    "/price-lists/{list_id}/assignments",
    summary="Say whom a price list is for",
    openapi_extra=body_of(
        PriceAssignmentRequest,
        {
            "a customer": examples.PRICE_ASSIGNMENT,
            "every business": examples.PRICE_DEFAULT,
            "not any more": examples.PRICE_WITHDRAWN,
        },
    ),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PRICE_LIST}}}},
)
async def assign_price_list(list_id: AList, request: Request, parts: PartsOf) -> PriceListView:
    """A customer's own list counts before that of the account that pays, and that before the list of every business.

    Nobody can have two lists of one currency for the same moment: the second is refused.
    """
    asked = await read_message(request, PriceAssignmentRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        if asked.withdrawn:
            return await prices.withdraw(session, list_id, asked.kind, asked.assignee, actor=asked.actor)
        return await prices.assign(
            session, list_id, asked.kind, asked.assignee, actor=asked.actor, reason=asked.reason
        )


@router.get(
    "/prices",
    summary="Ask for an agreed price",
    responses=answers(401, 404, 409, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.AGREED_PRICE}}}},
)
async def show_price(
    *,
    parts: PartsOf,
    sku: Annotated[Sku, Query(description="The SKU, as orders name it")],
    quantity: Annotated[int, Query(ge=1, le=MAX_QUANTITY, description="How many units")] = 1,
    customer: Annotated[
        AssigneeName | None, Query(description="Whose price: the order's `customer_ref`")
    ] = None,
    account: Annotated[AssigneeName | None, Query(description="Whose price: the account that pays")] = None,
    price_list: Annotated[
        PriceListId | None, Query(description="The price of this list, whosever it is and whenever it holds")
    ] = None,
    currency: Annotated[Currency | None, Query(description="Of the order; default: the list's")] = None,
    at: Annotated[SentMoment | None, Query(description="When the order is placed; default: now")] = None,
) -> AgreedPrice:
    """What so many units cost a customer, by which list, and from how many units on they would cost less or more.

    Of a customer who is not named: by the list of every business.
    """
    if price_list is not None and (customer, account, currency, at) != (None, None, None, None):
        problem = Problem(
            path="price_list",
            code="ambiguous_question",
            message="says which list counts: ask without customer, account, currency and at",
        )
        raise InvalidRequest([problem])
    async with parts.store.transaction() as session:
        if price_list is not None:
            return await prices.quote_from(session, price_list, sku, quantity)
        return await prices.quote(
            session,
            Customer(customer_ref=customer, accounts=() if account is None else (account,)),
            sku,
            quantity,
            currency=currency,
            at=at or datetime.now(UTC),
        )
