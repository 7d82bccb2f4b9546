"""Tenders offered for an order after its own was declined: kept here, tried by the order's run."""

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.intake import stored_draft
from models.base import Contract
from models.errors import AmountChanged, Conflict, NotAwaited, NotFound, PayLinkUsed
from models.messages import OfferTender
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import TenderKind
from models.states import ORDER_TERMINAL, OrderState, ReviewState
from models.tables.journal import ReviewTaskRow
from models.tables.operations import PaymentOperationRow
from models.tables.orders import OrderRow
from models.tables.tenders import TenderRow
from models.tender import CUSTOMER, PayLink, TenderState
from policies.tenders import Part, in_parts, part_of, parts_of, replaced

# The flag of the review that asks about a hold which could not be renewed (workflows/paying.py).
RENEWAL_DECLINED = "renewal_declined"
_STANDING = (TenderState.OFFERED, TenderState.TAKEN)


class Offered(Contract):
    """A stored tender, as its order's run is told of it."""

    order_id: str
    number: int
    request_id: str
    offered_by: str
    state: TenderState

    @property
    def message(self) -> OfferTender:
        """What the run is told. The provider's token is not in it."""
        return OfferTender(request_id=self.request_id, actor=self.offered_by, tender=self.number)


class Asked(Contract):
    """What a customer is asked to pay: no name, no address, no goods."""

    order_number: str
    amount: Money


async def paying(session: AsyncSession, order_id: str, number: int) -> tuple[Part, ...]:
    """What pays the order once tender ``number`` was taken: 0 is the document's own, each later one takes over a part.

    Raises ``NotFound``.
    """
    parts = parts_of((await stored_draft(session, order_id)).draft)
    if number == 0:
        return parts
    rows = await session.scalars(
        select(TenderRow)
        .where(col(TenderRow.order_id) == order_id, col(TenderRow.number).between(1, number))
        .order_by(col(TenderRow.number))
    )
    offered = rows.all()
    if not offered or offered[-1].number != number:
        raise NotFound(f"order {order_id} has no tender {number}")
    for row in offered:
        if row.number == number or row.state != TenderState.REFUSED:
            parts = replaced(parts, row.instead_of, TenderKind(row.kind), row.token, row.number)
    return parts


async def may_ask(session: AsyncSession, order_id: str, number: int, *, key: str, minor: int) -> bool:
    """Whether ``minor`` may be held on the offered tender ``number`` under ``key``.

    The first time it is what its customer was shown, to the penny, and no more than what the shop was told. What it is
    asked for later follows what the order has become, as with the document's own tenders.
    """
    row = await session.get(
        TenderRow, {"order_id": order_id, "number": number}, with_for_update=True, populate_existing=True
    )
    if row is None:
        raise NotFound(f"order {order_id} has no tender {number}")
    if row.first_hold is None:
        row.first_hold = key
        await session.flush()
    if row.first_hold != key or row.amount_minor is None:
        return True
    return minor == row.amount_minor or (minor < row.amount_minor and row.offered_by != CUSTOMER)


async def may_be_in_parts(session: AsyncSession, order_id: str) -> bool:
    """Whether anything was ever held for the order in parts. Raises ``NotFound``."""
    draft = (await stored_draft(session, order_id)).draft
    ours = await session.scalar(
        select(func.count())
        .select_from(TenderRow)
        .where(col(TenderRow.order_id) == order_id, col(TenderRow.kind) != TenderKind.CARD)
    )
    return in_parts(parts_of(draft)) or bool(ours)


async def offer(
    session: AsyncSession, order_id: str, *, kind: TenderKind, token: str, request_id: str, actor: str
) -> Offered:
    """Store a tender under the next number; one with this ``request_id`` is the same one again.

    It is wanted by an order that awaits its customer, and by one of which a person of ours is asked because its hold
    ran out. Raises ``NotFound``, ``NotAwaited`` while the order does not wait for one, and ``Conflict`` for another
    tender under a request id that was used.
    """
    state = await _locked(session, order_id)
    known = await session.scalar(
        select(TenderRow).where(col(TenderRow.order_id) == order_id, col(TenderRow.request_id) == request_id)
    )
    if known is not None:
        if known.kind != kind or not _same(known.token, token):
            raise Conflict(
                f"request {request_id} has offered another tender for order {order_id}: a request id is used once"
            )
        return _offered(known)
    if not await _asked_to_renew(session, order_id):
        _require_waiting(order_id, state)
    return await _store(session, order_id, kind=kind, token=token, request_id=request_id, actor=actor)


async def offer_by_link(
    session: AsyncSession, link: PayLink, *, kind: TenderKind, token: str, shown: Money | None = None
) -> Offered:
    """Store the tender that a pay link is for. The same token again is the same tender, any other is one too many.

    ``shown``: what the customer was shown. Raises ``NotFound``, ``NotAwaited``, ``PayLinkUsed``, and ``AmountChanged``
    when another amount is asked for by now.
    """
    state = await _locked(session, link.order_id)
    since = await _standing_since(session, link)
    for row in since:
        if row.request_id == _request_of(link, row.number) and row.kind == kind and _same(row.token, token):
            return _offered(row)
    _require_waiting(link.order_id, state)
    _require_unused(since)
    asked = (await asked_by(session, link)).amount
    if shown is not None and shown != asked:
        raise AmountChanged(f"{asked} are asked for by now, and not {shown}: show the link's amount again")
    number = await tenders_of(session, link.order_id) + 1
    return await _store(
        session, link.order_id, kind=kind, token=token, request_id=_request_of(link, number), actor=CUSTOMER
    )


async def asked_by(session: AsyncSession, link: PayLink) -> Asked:
    """What the customer with this link is asked to pay. Raises as ``offer_by_link``."""
    order = await session.get(OrderRow, link.order_id)
    if order is None:
        raise NotFound(f"there is no order {link.order_id}")
    _require_waiting(link.order_id, OrderState(order.state))
    _require_unused(await _standing_since(session, link))
    _, minor = await _asked(session, order)
    return Asked(order_number=order.external_id, amount=Money(minor=minor, currency=order.currency))


async def tenders_of(session: AsyncSession, order_id: str) -> int:
    """How many tenders were offered for the order: the version of a pay link that is made now."""
    last = select(func.max(col(TenderRow.number))).where(col(TenderRow.order_id) == order_id)
    return await session.scalar(last) or 0


async def settle_offer(session: AsyncSession, offered: Offered, state: TenderState) -> None:
    """Note that the run has heard of a tender, or did not want it. What it has taken stays taken."""
    await session.execute(
        update(TenderRow)
        .where(
            col(TenderRow.order_id) == offered.order_id,
            col(TenderRow.number) == offered.number,
            col(TenderRow.state) == TenderState.OFFERED,
        )
        .values(state=state)
    )


async def untold(session: AsyncSession, older_than: timedelta, limit: int) -> Sequence[Offered]:
    """Tenders that were stored longer than ``older_than`` ago, and whose run is not known to have heard of them."""
    rows = await session.scalars(
        select(TenderRow)
        .where(
            col(TenderRow.state) == TenderState.OFFERED,
            col(TenderRow.offered_at) < datetime.now(UTC) - older_than,
        )
        .order_by(col(TenderRow.offered_at))
        .limit(limit)
    )
    return [_offered(row) for row in rows]


async def _locked(session: AsyncSession, order_id: str) -> OrderState:
    """The order's state; nobody else numbers a tender of it until the transaction ends."""
    state = await session.scalar(
        select(col(OrderRow.state)).where(col(OrderRow.order_id) == order_id).with_for_update()
    )
    if state is None:
        raise NotFound(f"there is no order {order_id}")
    return OrderState(state)


async def _asked(session: AsyncSession, order: OrderRow) -> tuple[int, int]:
    """Which part of the order another tender is for, and how much it pays.

    It is what was declined last: the order may have been amended since the first time, or shipped in part.
    """
    declined = await session.execute(
        select(col(PaymentOperationRow.key), col(PaymentOperationRow.amount_minor))
        .where(
            col(PaymentOperationRow.order_id) == order.order_id,
            col(PaymentOperationRow.kind) == PaymentKind.AUTHORISE,
            col(PaymentOperationRow.state) == OperationState.DECLINED,
        )
        .order_by(col(PaymentOperationRow.answered_at).desc())
        .limit(1)
    )
    for key, minor in declined:
        return part_of(key), minor
    return 1, order.total_minor


async def _asked_to_renew(session: AsyncSession, order_id: str) -> bool:
    """Whether a person of ours is asked about a hold that ran out and could not be renewed: another tender helps."""
    why: list[dict[str, str]] = [{"code": RENEWAL_DECLINED}]
    found = await session.scalar(
        select(func.count())
        .select_from(ReviewTaskRow)
        .where(
            col(ReviewTaskRow.order_id) == order_id,
            col(ReviewTaskRow.state) == ReviewState.OPEN,
            col(ReviewTaskRow.task)["why_flagged"].contains(why),
        )
    )
    return bool(found)


def _require_waiting(order_id: str, state: OrderState) -> None:
    if state is OrderState.AWAITING_CUSTOMER:
        return
    why = "it has ended" if state in ORDER_TERMINAL else "it does not wait for another means of payment"
    raise NotAwaited(f"order {order_id} is {state}: {why}")


def _require_unused(since: Sequence[TenderRow]) -> None:
    if since:
        raise PayLinkUsed(
            "another means of payment was given since this link was made: should it be declined too, a new link follows"
        )


async def _standing_since(session: AsyncSession, link: PayLink) -> Sequence[TenderRow]:
    rows = await session.scalars(
        select(TenderRow)
        .where(
            col(TenderRow.order_id) == link.order_id,
            col(TenderRow.number) > link.version,
            col(TenderRow.state).in_(_STANDING),
        )
        .order_by(col(TenderRow.number))
    )
    return rows.all()


async def _store(
    session: AsyncSession, order_id: str, *, kind: TenderKind, token: str, request_id: str, actor: str
) -> Offered:
    order = await session.get_one(OrderRow, order_id)
    instead_of, minor = await _asked(session, order)
    row = TenderRow(
        order_id=order_id,
        number=await tenders_of(session, order_id) + 1,
        kind=kind,
        token=token,
        request_id=request_id,
        offered_at=datetime.now(UTC),
        offered_by=actor,
        instead_of=instead_of,
        amount_minor=minor,
    )
    session.add(row)
    await session.flush()
    return _offered(row)


def _request_of(link: PayLink, number: int) -> str:
    return f"pay:{link.version}:{number}"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _offered(row: TenderRow) -> Offered:
    return Offered(
        order_id=row.order_id,
        number=row.number,
        request_id=row.request_id,
        offered_by=row.offered_by,
        state=TenderState(row.state),
    )
