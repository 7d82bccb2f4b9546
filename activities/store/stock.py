"""Reservations: every unit of a plan or none, never more than there is, whoever else is reserving.

What has to hold is done by functions of the database (migration 0012), in one call each: a row that many want is locked
only while the server works, not while a process of ours thinks.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, LiteralString

from pydantic import AwareDatetime
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.driver import array, call
from models.base import Contract
from models.effects import Reservation, Shortage
from models.errors import Refused
from models.journal import SYSTEM
from models.states import ORDER_TERMINAL
from models.tables.stock import ReservationRow, ReservationState


class Wanted(Contract):
    """``quantity`` units of ``sku`` at ``node`` for one shipment, which is promised to arrive by ``promised_at``."""

    shipment_id: str
    node: str
    sku: str
    quantity: int
    promised_at: AwareDatetime | None = None


class Claim(Contract):
    """A plan's units, wanted for an order under a key."""

    key: str
    order_id: str
    plan_id: str
    expires_at: AwareDatetime
    wanted: tuple[Wanted, ...]


async def reserve(
    session: AsyncSession,
    *,
    key: str,
    order_id: str,
    plan_id: str,
    wanted: Sequence[Wanted],
    expires_at: datetime,
) -> Reservation:
    """Reserve all of ``wanted`` under ``key``, or nothing and say what was short.

    An order holds its units once: what it holds under other keys, from before its run was reset, is freed with the new
    claim. Shipments that the warehouse has already are the exception: they keep what was reserved for them, and nothing
    more is reserved for them. The same key again changes nothing. Raises ``Refused`` when the reservation was released
    before it came, when the order has ended, and when it goes by another plan.

    ``Reserver`` does the same for many orders at once.
    """
    claim = Claim(key=key, order_id=order_id, plan_id=plan_id, expires_at=expires_at, wanted=tuple(wanted))
    answers = await call(session, RESERVE, reserve_values([claim], alone=True))
    return reservation(claim, answers[0])


RESERVE: LiteralString = (
    "SELECT stock_reserve(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::integer[], %s::text[], %s::text[],"
    " %s::text[], %s::bigint[], %s::timestamptz[], %s, %s::text[], %s)"
)


def reserve_values(claims: Sequence[Claim], *, alone: bool) -> tuple[Any, ...]:
    """What ``RESERVE`` is asked with for ``claims``: each by itself is all or nothing."""
    lines = [_together(claim.wanted) for claim in claims]
    wants = [want for of_claim in lines for want in of_claim]
    return (
        array(claim.key for claim in claims),
        array(claim.order_id for claim in claims),
        array(claim.plan_id for claim in claims),
        array(claim.expires_at for claim in claims),
        array(accumulate(len(of_claim) for of_claim in lines)),
        array(want.shipment_id for want in wants),
        array(want.node for want in wants),
        array(want.sku for want in wants),
        array(want.quantity for want in wants),
        array(want.promised_at for want in wants),
        SYSTEM,
        _ENDED,
        alone,
    )


def reservation(claim: Claim, answer: Mapping[str, Any]) -> Reservation:
    """What the database answered to ``claim``. Raises ``Refused``."""
    outcome = answer["outcome"]
    if outcome == "ended":
        raise Refused(f"order {claim.order_id} is {answer['state']}: nothing new is begun for it")
    if outcome == "superseded":
        raise Refused(
            f"order {claim.order_id} goes by plan {answer['plan_id']} now: nothing is reserved for {claim.plan_id}"
        )
    if outcome == "released":
        raise Refused(f"reservation {claim.key} was released")
    shortages = tuple(Shortage.model_validate(row) for row in answer.get("shortages", ()))
    return Reservation(reserved=not shortages, shortages=shortages)


async def release(
    session: AsyncSession,
    *,
    key: str,
    order_id: str,
    shipment_id: str | None = None,
    reason: str | None = None,
) -> int:
    """Free what ``key`` still holds, or only ``shipment_id``'s part of it; answers how many units that was.

    What was shipped stays shipped. Releasing the whole of a reservation that never came leaves a mark, so that it is
    refused when it comes late.
    """
    freed: int = await call(session, _RELEASE, (key, order_id, shipment_id, SYSTEM, reason))
    return freed


async def release_all(session: AsyncSession, order_id: str, *, reason: str | None = None) -> int:
    """Free whatever is held for an order that has ended, under whichever key; answers how many units that was."""
    keys = await session.scalars(
        select(col(ReservationRow.key))
        .where(col(ReservationRow.order_id) == order_id, col(ReservationRow.state) == ReservationState.HELD)
        .order_by(col(ReservationRow.key))
    )
    return sum([await release(session, key=key, order_id=order_id, reason=reason) for key in keys.all()])


async def consume(session: AsyncSession, shipment_id: str) -> None:
    """The shipment left with the carrier: what was reserved for it is neither reserved nor on hand any more.

    Units that were freed, because the parcel left while it was being called off, are gone all the same
    (``departing.leave`` sees to those who were promised them meanwhile). It leaves once: of several reservations for
    it one is consumed, and what the others hold is freed. Doing it again changes nothing.
    """
    await call(session, _CONSUME, (shipment_id, SYSTEM))


_RELEASE: LiteralString = "SELECT stock_release(%s, %s, %s, %s, %s)"
_CONSUME: LiteralString = "SELECT stock_consume(%s, %s)"
_ENDED = array(sorted(ORDER_TERMINAL))


def _together(wanted: Sequence[Wanted]) -> list[Wanted]:
    """One for each shipment, node and SKU: two lines of one order may ask for the same, and must fit together."""
    if len(wanted) < 2:
        return list(wanted)
    found: dict[tuple[str, str, str], Wanted] = {}
    for want in wanted:
        place = (want.shipment_id, want.node, want.sku)
        known = found.get(place)
        found[place] = (
            want if known is None else known.model_copy(update={"quantity": known.quantity + want.quantity})
        )
    return list(found.values())
