"""What stock is worth where it lies over HTTP: the last values, and a run for whoever cannot wait for the next."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from activities.store import policies, stock_values
from activities.store.network import network
from apps.api import examples
from apps.api.asking import new_request_id
from apps.api.bodies import body_of, read_message
from apps.api.contracts import RefreshValues, ValuesAsked
from apps.api.paging import Cursor, Limit
from apps.api.parts import PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from models.errors import InvalidDocument
from models.identifiers import Sku
from models.values import StockValuePage
from policies.routing.looking import values_now

router = APIRouter(prefix="/v1/routing", tags=["routing"], dependencies=[Depends(only_known_parameters)])


@router.get(
    "/values",
    summary="Look at what stock is worth where it lies",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.STOCK_VALUES}}}},
)
async def list_stock_values(
    *,
    parts: PartsOf,
    sku: Annotated[Sku | None, Query(description="Only this SKU")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> StockValuePage:
    """What the last run found of each SKU at each node, and what it counts for orders that are routed now.

    `limit` is in SKUs. Follow `next_cursor` until it is null.
    """
    async with parts.store.transaction() as session:
        run = await stock_values.last_run(session)
        if run is None:
            return StockValuePage(run=None, currency=None, values=())
        currency = (await network(session)).currency
        policy = await policies.active(session)
        try:
            known, following = await stock_values.values_page(session, run, sku, cursor, limit)
        except InvalidDocument as invalid:
            raise InvalidRequest(invalid.problems) from None
    found = values_now(known, policy.look_ahead, policy.markdowns, datetime.now(UTC))
    return StockValuePage(run=run, currency=currency, values=tuple(found), next_cursor=following)


@router.post(
    "/values/refresh",
    status_code=202,
    summary="Work out now what stock is worth",
    openapi_extra=body_of(RefreshValues, {"once": examples.VALUES_REQUEST}),
    responses=answers(401, 413, 422, 503)
    | {202: {"content": {"application/json": {"example": examples.VALUES_ASKED}}}},
)
async def refresh_stock_values(request: Request, parts: PartsOf) -> ValuesAsked:
    """Start a run of the scheduled workflow now, also where the policy in force makes no use of values.

    With the same `request_id` a repeat starts no other run.
    """
    asked = await read_message(request, RefreshValues, parts.settings.api_body_seconds)
    return ValuesAsked(run_id=await parts.runs.work_out_values(asked.request_id or new_request_id()))
