"""``GET /v1/availability``: what can be promised, where and from when."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from activities.store import availability as store_availability
from apps.api import examples
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.availability import Availability
from models.identifiers import Channel, Sku
from models.order import CustomerTier

router = APIRouter(
    prefix="/v1/availability", tags=["availability"], dependencies=[Depends(only_known_parameters)]
)


@router.get(
    "",
    summary="Look at what can be promised",
    responses=answers(401, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.AVAILABILITY}}}},
)
async def show_availability(
    *,
    parts: PartsOf,
    sku: Annotated[
        list[Sku], Query(min_length=1, max_length=100, description="Up to a hundred, each by its own `sku=`")
    ],
    destination: Annotated[
        str | None,
        Query(pattern="^[A-Z]{2}$", description="Only of nodes from which a carrier goes to this country"),
    ] = None,
    channel: Annotated[
        Channel | None, Query(description="To an order of this channel; without it, to any")
    ] = None,
    tier: Annotated[
        CustomerTier | None, Query(description="To a customer of this tier; without it, to any")
    ] = None,
) -> Availability:
    """What is on hand and neither reserved nor kept back, and from which day on how much more is expected.

    A look, no promise: units are promised when an order reserves them. A SKU that nobody stocks has none.
    """
    return await store_availability.availability(
        parts.store, sku, destination, datetime.now(UTC).date(), channel=channel, tier=tier
    )
