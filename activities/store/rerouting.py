"""Notices of what cannot be planned with, plans that people set, and the orders that are to be planned anew."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.intake import stored_draft
from activities.store.network import network
from models.base import Contract
from models.errors import Conflict, InvalidDocument, NotFound, Outdated, Problem
from models.messages import Avoided, PlanAgain
from models.network import Network
from models.rerouting import Notice, NoticeKind, NoticeLift, NoticePost, SetPlan
from models.states import ORDER_TERMINAL, SHIPMENT_HANDED_OVER, SHIPMENT_TERMINAL, OrderState
from models.tables.rerouting import NoticeRow, PlanAgainRow, SetPlanRow
from policies.routing.rerouting import concerns_region

_SHOWN = 200
# Of PostgreSQL's advisory locks: plans are stored under it together, notices are posted one by one.
_PLANNING = 0x6F770001


class Untold(Contract):
    """An order that is to be planned anew, and what its run is told."""

    plan_again_id: int
    order_id: str
    message: PlanAgain


# --- notices ---
async def post(session: AsyncSession, wish: NoticePost) -> Notice:
    """Put a notice in force; ``spread`` has every order planned anew that is planned with what it is about.

    A repeat answers what was posted. Raises ``InvalidDocument`` for a node or carrier that there is not, or an end that
    is past, and ``Conflict`` when its id stands for another one.
    """
    # What is planned at this moment is stored before, so that ``spread`` finds it, or after, and then sees the notice.
    await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PLANNING})
    now = datetime.now(UTC)
    known = await session.scalar(select(NoticeRow).where(col(NoticeRow.request_id) == wish.request_id))
    if known is None:
        if problems := _unknown(wish, await network(session), now):
            raise InvalidDocument(problems)
        await session.execute(
            insert(NoticeRow)
            .values(
                **wish.model_dump(exclude={"ends_at"}),
                kind=wish.kind,
                posted_at=now,
                ends_at=wish.ends_at,
                orders=0,
            )
            .on_conflict_do_nothing(index_elements=["request_id"])
        )
        known = await session.scalar(select(NoticeRow).where(col(NoticeRow.request_id) == wish.request_id))
        assert known is not None  # noqa: S101 - it was inserted, or had been
    if not _says_the_same(known, wish):
        raise Conflict(
            f"request_id {wish.request_id} was used for another notice: an id is used for one request"
        )
    return _view(known)


async def lift(session: AsyncSession, notice_id: int, word: NoticeLift) -> Notice:
    """End a notice before its time; once it is over nothing changes any more. Raises ``NotFound``."""
    row = await session.get(NoticeRow, notice_id, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no notice {notice_id}")
    if row.lifted_at is None:
        row.lifted_at, row.lifted_by = datetime.now(UTC), word.actor
        row.reason = f"{row.reason}; lifted: {word.reason}"[:2000]
        if row.spread_at is None:
            # Nobody is to be called back any more for what is no longer so.
            row.spread_at = row.lifted_at
        await _wake(session, _view(row))
    return _view(row)


async def _wake(session: AsyncSession, notice: Notice) -> None:
    """Have every order look again that waits for goods, and was told that it is for this notice, among others."""
    message = PlanAgain(
        event_id=f"notice-{notice.notice_id}-lifted",
        actor=notice.lifted_by or notice.actor,
        reason=f"no longer so: {notice.about}"[:1000],
        waiting=True,
    )
    await session.execute(
        text(_TELL_WAITING),
        {
            "event_id": message.event_id,
            "message": message.model_dump_json(),
            "about": notice.about,
            "now": _now(),
        },
    )


_TELL_WAITING = """
INSERT INTO plans_again (order_id, event_id, message, made_at)
SELECT waiting.order_id, :event_id, CAST(:message AS jsonb), :now
  FROM (SELECT order_id FROM orders WHERE state = 'backordered'
        UNION
        SELECT order_id FROM review_tasks WHERE state = 'open' AND kind = 'backorder') AS waiting
 WHERE EXISTS (SELECT FROM timeline WHERE timeline.order_id = waiting.order_id
                  AND kind = 'order.backordered' AND strpos(why, :about) > 0)
ON CONFLICT DO NOTHING
"""


async def notice(session: AsyncSession, notice_id: int) -> Notice:
    """One notice. Raises ``NotFound``."""
    row = await session.get(NoticeRow, notice_id)
    if row is None:
        raise NotFound(f"there is no notice {notice_id}")
    return _view(row)


async def in_force(session: AsyncSession) -> tuple[Notice, ...]:
    """Notices that hold now, in the order they came."""
    rows = await session.scalars(
        select(NoticeRow)
        .where(
            col(NoticeRow.lifted_at).is_(None),
            or_(col(NoticeRow.ends_at).is_(None), col(NoticeRow.ends_at) > datetime.now(UTC)),
        )
        .order_by(col(NoticeRow.notice_id))
    )
    return tuple(_view(row) for row in rows)


async def holding(session: AsyncSession) -> tuple[int, ...]:
    """The notices that hold now, by their numbers."""
    return tuple(notice.notice_id for notice in await in_force(session))


async def still_hold(session: AsyncSession, planned_by: tuple[int, ...]) -> None:
    """Whoever stores a plan in this transaction is found by notices that are posted from now on.

    Raises ``Outdated`` unless the notices that hold are those that it was ``planned_by``.
    """
    await session.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _PLANNING})
    if await holding(session) != planned_by:
        raise Outdated("another notice holds by now: it is planned again")


async def notices(session: AsyncSession) -> tuple[Notice, ...]:
    """The last notices that were posted, whether they hold or not; the last first."""
    rows = await session.scalars(select(NoticeRow).order_by(col(NoticeRow.notice_id).desc()).limit(_SHOWN))
    return tuple(_view(row) for row in rows)


def _unknown(wish: NoticePost, known: Network, now: datetime) -> tuple[Problem, ...]:
    problems = []
    nodes = sorted(node.node_id for node in known.nodes)
    if wish.node is not None and wish.node not in nodes:
        problems.append(
            Problem(
                path="node",
                code="unknown_node",
                message=f"{wish.node} is no node: there are {', '.join(nodes)}",
            )
        )
    services = sorted({f"{one.carrier}/{one.service}" for one in known.services})
    if wish.carrier is not None and not any(
        one.carrier == wish.carrier and wish.service in (None, one.service) for one in known.services
    ):
        problems.append(
            Problem(
                path="service" if wish.service else "carrier",
                code="unknown_service",
                message=f"the network has no such service: there are {', '.join(services)}",
            )
        )
    if wish.ends_at is not None and wish.ends_at <= now:
        problems.append(
            Problem(
                path="ends_at",
                code="past",
                message=f"{wish.ends_at:%Y-%m-%d %H:%M %Z} is past: it would never hold",
            )
        )
    return tuple(problems)


def _says_the_same(row: NoticeRow, wish: NoticePost) -> bool:
    names = ("node", "carrier", "service", "country", "prefix", "delay_days", "ends_at")
    return all(getattr(row, name) == getattr(wish, name) for name in names)


def _view(row: NoticeRow) -> Notice:
    return Notice.model_validate(row.model_dump(exclude={"request_id", "spread_to"}))


async def spread(session: AsyncSession, limit: int) -> int | None:
    """Have the next orders planned anew that the first unspread notice is about, at most ``limit`` looked at.

    How many were looked at; None: no notice waits. Orders are taken by their ids, each notice as often as it takes.
    """
    row = await session.scalar(
        select(NoticeRow)
        .where(col(NoticeRow.spread_at).is_(None))
        .order_by(col(NoticeRow.notice_id))
        .limit(1)
        .with_for_update()
    )
    if row is None:
        return None
    notice = _view(row)
    found = (
        await session.execute(
            text(_PLANNED_WITH),
            {
                "node": notice.node,
                "carrier": notice.carrier,
                "service": notice.service,
                "country": notice.country,
                "open": [state.value for state in OrderState if state not in ORDER_TERMINAL],
                "gone": [state.value for state in SHIPMENT_HANDED_OVER | SHIPMENT_TERMINAL],
                "after": row.spread_to or "",
                "limit": limit,
            },
        )
    ).all()
    for order_id, numbers in found:
        row.orders += await _told_of(session, notice, order_id, numbers or ())
    if len(found) < limit:
        row.spread_at = _now()
    else:
        row.spread_to = found[-1][0]
    return len(found)


async def _told_of(
    session: AsyncSession, notice: Notice, order_id: str, numbers: Sequence[int | None]
) -> bool:
    if notice.kind is NoticeKind.REGION:
        address = (await stored_draft(session, order_id)).draft.ship_to
        if not concerns_region(notice, address.country, address.postcode):
            return False
    about = None
    if notice.kind is not NoticeKind.REGION:
        about = Avoided(node=notice.node, carrier=notice.carrier, service=notice.service)
    message = PlanAgain(
        event_id=f"notice-{notice.notice_id}",
        actor=notice.actor,
        reason=f"{notice.about}: {notice.reason}"[:1000],
        # What is only late goes on once it is packed.
        shipments=() if notice.delay_days else tuple(sorted(number for number in numbers if number)),
        about=about,
    )
    return await tell_later(session, order_id, message)


# Orders that a parcel is still to leave for from the node, by the service, or to the country; or that are planned so.
_PLANNED_WITH = """
SELECT orders.order_id, array_agg(DISTINCT parcel.number) FILTER (WHERE parcel.started)
  FROM orders
  JOIN LATERAL (
        SELECT number, node, carrier, service, true AS started FROM shipments
         WHERE shipments.order_id = orders.order_id AND NOT shipments.state = ANY (:gone)
           AND shipments.handed_over_at IS NULL
        UNION ALL
        SELECT (planned ->> 'number')::int, planned ->> 'node', planned ->> 'carrier', planned ->> 'service', false
          FROM plans, jsonb_array_elements(plans.summary -> 'shipments') AS planned
         WHERE plans.order_id = orders.order_id
           AND plans.attempt = (SELECT max(last.attempt) FROM plans AS last WHERE last.order_id = orders.order_id)
           AND NOT EXISTS (SELECT FROM shipments WHERE shipments.order_id = orders.order_id
                              AND shipments.number = (planned ->> 'number')::int)
       ) AS parcel
    ON (CAST(:node AS text) IS NULL OR parcel.node = :node)
   AND (CAST(:carrier AS text) IS NULL OR parcel.carrier = :carrier)
   AND (CAST(:service AS text) IS NULL OR parcel.service = :service)
 WHERE orders.state = ANY (:open)
   AND orders.order_id > :after
   AND (CAST(:country AS text) IS NULL OR orders.ship_country = :country)
 GROUP BY orders.order_id
 ORDER BY orders.order_id
 LIMIT :limit
"""


# --- plans that people set ---
async def keep_set(session: AsyncSession, order_id: str, wish: SetPlan) -> str:
    """Keep where a person wants an order to come from, and have its run told; its id. A repeat changes nothing.

    Raises ``Conflict`` when its id stands for another wish.
    """
    identifier = f"set-{uuid.uuid4().hex}"
    await session.execute(
        insert(SetPlanRow)
        .values(
            set_plan_id=identifier,
            order_id=order_id,
            request_id=wish.request_id,
            actor=wish.actor,
            wish=wish.model_dump(mode="json"),
            made_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["order_id", "request_id"])
    )
    row = await known_set(session, order_id, wish)
    assert row is not None  # noqa: S101 - it was inserted, or had been
    if row == identifier:
        message = PlanAgain(
            event_id=f"set-plan-{identifier}", actor=wish.actor, reason=wish.reason, set_plan=identifier
        )
        await tell_later(session, order_id, message)
    return row


async def known_set(session: AsyncSession, order_id: str, wish: SetPlan) -> str | None:
    """The id under which ``wish`` was kept before. Raises ``Conflict`` when its request is another one's."""
    row = await session.scalar(
        select(SetPlanRow).where(
            col(SetPlanRow.order_id) == order_id, col(SetPlanRow.request_id) == wish.request_id
        )
    )
    if row is None:
        return None
    if SetPlan.model_validate(row.wish).model_dump() != wish.model_dump():
        raise Conflict(
            f"request_id {wish.request_id} was used for another plan: an id is used for one request"
        )
    return row.set_plan_id


async def set_plan(session: AsyncSession, identifier: str, order_id: str) -> SetPlan:
    """What was kept. Raises ``NotFound``."""
    row = await session.get(SetPlanRow, identifier)
    if row is None or row.order_id != order_id:
        raise NotFound(f"order {order_id} has no plan {identifier} that somebody has set")
    return SetPlan.model_validate(row.wish)


# --- telling runs ---
async def tell_later(session: AsyncSession, order_id: str, message: PlanAgain) -> bool:
    """Have the order's run told; False if it was to be told of this before."""
    done = await session.execute(
        insert(PlanAgainRow)
        .values(
            order_id=order_id,
            event_id=message.event_id,
            message=message.model_dump(mode="json"),
            made_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["order_id", "event_id"])
        .returning(col(PlanAgainRow.plan_again_id))
    )
    return done.first() is not None


async def untold(session: AsyncSession, limit: int, order_id: str | None = None) -> list[Untold]:
    """What runs have not been told yet, or that of one order; the first first."""
    query = select(PlanAgainRow).where(col(PlanAgainRow.told_at).is_(None))
    if order_id is not None:
        query = query.where(col(PlanAgainRow.order_id) == order_id)
    rows = await session.scalars(query.order_by(col(PlanAgainRow.plan_again_id)).limit(limit))
    return [
        Untold(
            plan_again_id=row.plan_again_id or 0,
            order_id=row.order_id,
            message=PlanAgain.model_validate(row.message),
        )
        for row in rows
    ]


async def told_of(session: AsyncSession, rows: Sequence[int]) -> None:
    """Note that their runs know, or that there is none any more to know."""
    await session.execute(
        update(PlanAgainRow)
        .where(col(PlanAgainRow.plan_again_id).in_(rows))
        .values(told_at=datetime.now(UTC))
    )


async def put_off(session: AsyncSession, row: int) -> None:
    """Have it told after all that wait now."""
    await session.execute(
        text("UPDATE plans_again SET plan_again_id = DEFAULT WHERE plan_again_id = :row"), {"row": row}
    )


async def forget(session: AsyncSession, older_than: timedelta, limit: int) -> int:
    """Forget what runs were told so long ago, at most ``limit``; how many those were."""
    done = await session.execute(
        text(
            "DELETE FROM plans_again WHERE plan_again_id IN (SELECT plan_again_id FROM plans_again "
            "WHERE told_at < :before LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING 1"
        ),
        {"before": _now() - older_than, "limit": limit},
    )
    return len(done.all())


def _now() -> datetime:
    return datetime.now(UTC)
