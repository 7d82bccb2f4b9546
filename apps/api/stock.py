"""Stock over HTTP: what lies where, and what warehouses tell of it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.convertors import Convertor, register_url_convertor

from activities.store import allocating, stock_books, warehouse
from activities.store.stock_books import StockAccount
from activities.store.stock_views import stock_view
from apps.api import examples
from apps.api.bodies import Body, body_of, parse_message, read_body, read_message
from apps.api.contracts import (
    AdjustmentRequest,
    AllocationRequest,
    CountRequest,
    DamageRequest,
    ExpectedRequest,
    ReceiptRequest,
    SafetyStockRequest,
    ShortPickRequest,
    TransferRequest,
)
from apps.api.parts import Parts, PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.allocation import MAX_POLICY_BYTES, AllocationView
from models.identifiers import Sku
from models.stock import StockAnswer, StockDocument, StockView


class _SkuInPath(Convertor[str]):
    """A SKU may hold a slash. What can be done to stock has the same place: a SKU of such a name is not shown here."""

    regex = "(?!(?:receive|expect|count|adjust|damage|transfer|short-pick|safety|allocation)$).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("sku", _SkuInPath())

router = APIRouter(prefix="/v1/stock", tags=["stock"], dependencies=[Depends(only_known_parameters)])

# Only described: what cannot be a SKU is not found, like one that was never stocked.
ASku = Annotated[
    str,
    Path(
        description="The SKU, as orders name it",
        examples=["85123A"],
        json_schema_extra={"pattern": TypeAdapter(Sku).json_schema()["pattern"]},
    ),
]

_TOLD = answers(401, 409, 413, 422, 503) | {
    200: {"content": {"application/json": {"example": examples.STOCK_ANSWER}}}
}


@router.get(
    "",
    summary="Check the books of stock",
    responses=answers(401, 503)
    | {200: {"content": {"application/json": {"example": examples.STOCK_ACCOUNT}}}},
)
async def check_stock(parts: PartsOf) -> StockAccount:
    """Whether every stock row is the sum of its movements and of its lots, what is reserved is what reservations hold,
    and each of those belongs to an open order; and what has expired. It reads all of it: ask once a day, not at every
    order.
    """
    async with parts.store.transaction() as session:
        return await stock_books.reconcile(session)


@router.post(
    "/receive",
    summary="Receive goods",
    openapi_extra=body_of(
        ReceiptRequest,
        {
            "a delivery": examples.RECEIPT,
            "a delivery in lots": examples.RECEIPT_OF_LOTS,
            "a transfer": examples.ARRIVAL,
        },
    ),
    responses=_TOLD,
)
async def receive_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """Goods lie on the shelves of a node now; from a supplier, or with `transfer_id` from another node.

    Goods that expire have a line for each `lot`, with the last day on which they are good.
    """
    return await _told(parts, request, ReceiptRequest, warehouse.receive)


@router.post(
    "/expect",
    summary="Announce a delivery",
    openapi_extra=body_of(ExpectedRequest, {"a purchase order": examples.EXPECTED}),
    responses=_TOLD,
)
async def expect_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """A supplier will deliver: it can be promised from that day on. What is said last of a `supply_id` counts."""
    return await _told(parts, request, ExpectedRequest, warehouse.expect)


@router.post(
    "/count",
    summary="Report a count",
    openapi_extra=body_of(CountRequest, {"a yearly count": examples.COUNT}),
    responses=_TOLD,
)
async def count_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """So many units lie there, whatever the books say: never refused for what was found.

    Promises that no longer fit are released, the earliest kept as long as they fit; `released` names them. Shipments
    whose pick has begun come last. Parcels that have left are not to be counted.
    """
    return await _told(parts, request, CountRequest, warehouse.count)


@router.post(
    "/adjust",
    summary="Correct the books",
    openapi_extra=body_of(AdjustmentRequest, {"a slip of the pen": examples.ADJUSTMENT}),
    responses=_TOLD,
)
async def adjust_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """So many units more or fewer. Promises that no longer fit are released, as with a count."""
    return await _told(parts, request, AdjustmentRequest, warehouse.adjust)


@router.post(
    "/damage",
    summary="Write goods off",
    openapi_extra=body_of(DamageRequest, {"a breakage": examples.DAMAGE}),
    responses=_TOLD,
)
async def damage_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """So many units are no good any more. Promises that no longer fit are released, as with a count."""
    return await _told(parts, request, DamageRequest, warehouse.damage)


@router.post(
    "/transfer",
    summary="Send goods to another node",
    openapi_extra=body_of(TransferRequest, {"a transfer": examples.TRANSFER}),
    responses=_TOLD,
)
async def transfer_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """Units that nobody was promised left one node for another; there they are received with `transfer_id`."""
    return await _told(parts, request, TransferRequest, warehouse.transfer)


@router.post(
    "/short-pick",
    summary="Report what a picker did not find",
    openapi_extra=body_of(ShortPickRequest, {"two are missing": examples.SHORT_PICK}),
    responses=_TOLD | answers(404),
)
async def short_pick_stock(request: Request, parts: PartsOf) -> StockAnswer:
    """A shipment's units were not on the shelf: it loses them, and so does the stock."""
    return await _told(parts, request, ShortPickRequest, warehouse.short_pick)


@router.post(
    "/safety",
    summary="Keep units back",
    openapi_extra=body_of(SafetyStockRequest, {"four of one, none of another": examples.SAFETY_STOCK}),
    responses=_TOLD,
)
async def keep_stock_back(request: Request, parts: PartsOf) -> StockAnswer:
    """So many units of a SKU are promised to nobody new at a node. What is promised already stays so."""
    return await _told(parts, request, SafetyStockRequest, warehouse.keep_back)


@router.get(
    "/allocation",
    summary="Look at who may be promised what",
    responses=answers(401, 503) | {200: {"content": {"application/json": {"example": examples.ALLOCATION}}}},
)
async def show_allocation(parts: PartsOf) -> AllocationView:
    """The rules of channels and tiers that stand, and what each has counted."""
    async with parts.store.transaction() as session:
        return await allocating.allocation(session)


@router.put(
    "/allocation",
    summary="Set who may be promised what",
    openapi_extra=body_of(AllocationRequest, {"a marketplace and a sale": examples.ALLOCATION_POLICY}),
    responses=answers(401, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.ALLOCATION}}}},
)
async def set_allocation(request: Request, parts: PartsOf) -> AllocationView:
    """All rules at once: those that are not sent do not hold any more. What is promised stays promised.

    A rule that protects keeps units for its group; a limit is what a group may hold of what lies there; a cap is what
    it may be promised in all while the rule holds. Rules that stay as they were go on counting.
    """
    raw = await read_body(request, MAX_POLICY_BYTES, parts.settings.api_body_seconds)
    policy = parse_message(raw, AllocationRequest)
    structlog.contextvars.bind_contextvars(actor=policy.actor)
    async with parts.store.transaction() as session:
        return await allocating.allocate(session, policy)


@router.get(
    "/{sku:sku}",
    summary="Look at a SKU's stock",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.STOCK}}}},
)
async def show_stock(
    sku: ASku,
    parts: PartsOf,
    movements: Annotated[int, Query(ge=0, le=200, description="How many of the last movements to show")] = 20,
) -> StockView:
    """A SKU at every node with its lots, what is on its way between them, and its last movements."""
    async with parts.store.transaction() as session:
        return await stock_view(session, sku.replace("\x00", "\ufffd"), movements=movements)


async def _told(
    parts: Parts,
    request: Request,
    contract: type[Body],
    do: Callable[[AsyncSession, Any], Awaitable[StockAnswer]],
) -> StockAnswer:
    document = await read_message(request, contract, parts.settings.api_body_seconds)
    if isinstance(document, StockDocument):
        structlog.contextvars.bind_contextvars(actor=document.actor)
    async with parts.store.transaction() as session:
        return await do(session, document)
