"""Amendments of orders: proposed with what they do to the money, then applied, or refused, by the order's run.

A proposal changes nothing. An application is one transaction: the document in force, the order's row and lines and the
timeline change together, or not at all.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.settlement import left
from activities.store import accounts, policies, reads
from activities.store.intake import canonical_hash, document_facts, line_rows, stored_draft
from activities.store.network import active_services, stock_of, unknown_skus
from activities.store.plans import kept_lines, plan_of_each
from activities.store.prices import agreed_for_order
from activities.store.tenders import tenders_of
from activities.store.views import MoneyTotals, ShipmentView
from models.amendment import AmendmentPreview, AmendmentRequest, AmendmentState, AmendmentView
from models.base import Contract
from models.effects import AmendmentApplied, ApplyAmendment, KeptShipment, OrderFacts
from models.errors import Conflict, NotFound, Problem
from models.identifiers import order_workflow_id
from models.journal import TimelineEntry
from models.messages import AmendOrder
from models.money import Money
from models.order import CustomerType, OrderDraft, TenderKind
from models.prices import AgreedPrices
from models.states import ORDER_TERMINAL, OrderState, ShipmentState
from models.tables.amendments import AmendmentRow
from models.tables.journal import TimelineRow
from models.tables.orders import IntakeRow, OrderLineRow, OrderRow
from policies.amendment import Kept, Priced, Versions, amend, cut_off, preview, priced, units_left
from policies.classification import classify

ORDER_ENDED = Problem(
    path="",
    code="order_ended",
    message="the order came to its end first: have the customer return what is not wanted, place a new order for more",
)
_PACKED = frozenset({ShipmentState.PICKED, ShipmentState.LABELLED})
_UNCLEAR = frozenset({ShipmentState.IN_REVIEW, ShipmentState.NEEDS_OPERATOR, ShipmentState.CANCELLING})


class Proposal(Contract):
    """An amendment as it was proposed, and the order's total by it. ``repeated``: it was proposed before."""

    view: AmendmentView
    total: Money
    repeated: bool = False

    def message(self, told: str = "") -> AmendOrder:
        """As the order's run is asked to go on by it; ``told``: what the customer hears, where nobody asked for it."""
        return AmendOrder(
            request_id=self.view.request_id,
            actor=self.view.actor,
            reason=self.view.reason,
            amendment_id=self.view.amendment_id,
            number=self.view.number,
            total=self.total,
            told=told,
        )


class _Prepared(Contract):
    """What an amendment comes to, by how the order stands now."""

    versions: Versions
    request: AmendmentRequest
    draft: OrderDraft
    shown: AmendmentPreview


def amendment_id(order_id: str, number: int) -> str:
    """``web:1001`` and 2 give ``web:1001:a2``."""
    return f"{order_id}:a{number}"


async def previewed(
    session: AsyncSession, order_id: str, request: AmendmentRequest
) -> AmendmentPreview | tuple[Problem, ...]:
    """What ``request`` would do, or why it cannot be done. Nothing is stored. Raises ``NotFound``."""
    found = await _prepare(session, order_id, request)
    return found.shown if isinstance(found, _Prepared) else found


async def propose(
    session: AsyncSession, order_id: str, request: AmendmentRequest
) -> Proposal | tuple[Problem, ...]:
    """Store ``request`` as a proposed amendment, or say why it cannot be done.

    The same request again answers what became of the first. Raises ``Conflict`` when its ``request_id`` stands for
    another one, ``NotFound`` when there is no such order.
    """
    # Held, so that two at once get numbers of their own.
    if await _locked_order(session, order_id) is None:
        raise NotFound(f"there is no order {order_id}")
    known = await session.scalar(
        select(AmendmentRow).where(
            col(AmendmentRow.order_id) == order_id, col(AmendmentRow.request_id) == request.request_id
        )
    )
    fingerprint = _fingerprint(request)
    if known is not None:
        if known.request_hash != fingerprint:
            raise Conflict(
                f"request_id {request.request_id} was used for another amendment of order {order_id}, "
                f"{known.amendment_id}: an id is used for one request"
            )
        return _proposal(known, repeated=True)
    found = await _prepare(session, order_id, request)
    if not isinstance(found, _Prepared):
        return found
    last = await session.scalar(
        select(func.max(col(AmendmentRow.number))).where(col(AmendmentRow.order_id) == order_id)
    )
    number = (last or 1) + 1
    row = AmendmentRow(
        amendment_id=amendment_id(order_id, number),
        order_id=order_id,
        number=number,
        base_version=found.versions.number,
        stated_by=await _stated_by(session, order_id, found.versions.number)
        if request.charges is None
        else number,
        request_id=request.request_id,
        request_hash=fingerprint,
        # With the prices that were shown: applied later it comes to them, whatever is loaded into the list meanwhile.
        request=found.request.model_dump(mode="json"),
        document=found.draft.model_dump(mode="json"),
        document_hash=canonical_hash(found.draft),
        preview=found.shown.model_dump(mode="json"),
        created_at=_now(),
    )
    session.add(row)
    await session.flush()
    return _proposal(row, repeated=False)


async def proposed(session: AsyncSession, order_id: str, request_id: str) -> Proposal | None:
    """What was proposed under ``request_id``, or None."""
    row = await session.scalar(
        select(AmendmentRow).where(
            col(AmendmentRow.order_id) == order_id, col(AmendmentRow.request_id) == request_id
        )
    )
    return None if row is None else _proposal(row, repeated=True)


async def any_waits(session: AsyncSession, order_id: str) -> bool:
    """Whether an amendment of the order was proposed that nobody has decided yet."""
    found = await session.scalar(
        select(col(AmendmentRow.amendment_id))
        .where(col(AmendmentRow.order_id) == order_id, col(AmendmentRow.state) == AmendmentState.PROPOSED)
        .limit(1)
    )
    return found is not None


async def apply(session: AsyncSession, effect: ApplyAmendment) -> AmendmentApplied:
    """Put a proposed amendment in force, or write down why it is refused. What was decided once stays so.

    It is worked out anew, for what is kept now. It never comes to a higher total than was proposed (and authorised),
    except for what the kept shipments take anyway. Raises ``NotFound`` for one that was never proposed.
    """
    order = await _locked_order(session, effect.order_id)
    row = await session.get(AmendmentRow, effect.amendment_id, with_for_update=True, populate_existing=True)
    if order is None or row is None or row.order_id != effect.order_id:
        raise NotFound(f"order {effect.order_id} has no amendment {effect.amendment_id}")
    if row.state == AmendmentState.REFUSED:
        return AmendmentApplied(refusal=Problem.model_validate(row.refusal))
    kept = Kept(lines=await kept_lines(session, effect.order_id, effect.kept), amount=effect.kept_amount)
    if row.state == AmendmentState.APPLIED:
        return _applied(order, row, OrderDraft.model_validate(row.document), kept)
    changed = await _worked_out(session, order, row, kept, effect.refused)
    entry = await _entry(session, effect, row)
    if isinstance(changed, Problem):
        await _refuse(session, row, changed)
        await _write(
            session, entry, "order.amendment_refused", f"amendment {row.number} is refused", changed.message
        )
        return AmendmentApplied(refusal=changed)
    before = order.total_minor
    await _put_in_force(session, order, row, changed, kept)
    told = (
        f"the order is of version {row.number} now: {order.unit_count:,} units, "
        f"{Money(minor=before, currency=order.currency)} before, {_money(order)} now"
    )
    await _write(session, entry, "order.amended", told, str(row.request["reason"]))
    return _applied(order, row, changed, kept)


async def refuse_what_waits(session: AsyncSession, order_id: str, refusal: Problem) -> None:
    """Refuse every amendment of an order that was proposed and not decided: nobody waits for it for ever."""
    await session.execute(
        update(AmendmentRow)
        .where(col(AmendmentRow.order_id) == order_id, col(AmendmentRow.state) == AmendmentState.PROPOSED)
        .values(state=AmendmentState.REFUSED, refusal=refusal.model_dump(mode="json"), decided_at=_now())
        .execution_options(synchronize_session=False)
    )


async def amendments(session: AsyncSession, order_id: str) -> tuple[AmendmentView, ...]:
    """Every amendment of an order, by number."""
    rows = await session.scalars(
        select(AmendmentRow).where(col(AmendmentRow.order_id) == order_id).order_by(col(AmendmentRow.number))
    )
    return tuple(_view(row) for row in rows)


async def amendment(session: AsyncSession, identifier: str) -> AmendmentView | None:
    """One amendment as it stands, or None."""
    row = await session.get(AmendmentRow, identifier, populate_existing=True)
    return None if row is None else _view(row)


# --- proposing ---
async def _prepare(
    session: AsyncSession, order_id: str, request: AmendmentRequest
) -> _Prepared | tuple[Problem, ...]:
    order = await session.get(OrderRow, order_id)
    if order is None:
        raise NotFound(f"there is no order {order_id}")
    if (too_late := cut_off(OrderState(order.state))) is not None:
        return (too_late,)
    if unknown := await _unknown_service(session, request):
        return unknown
    versions = await _versions(session, order_id)
    shipments = await reads.shipments(session, order_id)
    keeps = [shipment for shipment in shipments if left(shipment) or shipment.state in _PACKED]
    kept = await _kept(session, order, keeps)
    listed = await _with_prices(session, versions, request)
    changed = amend(versions, listed.request, kept)
    if not isinstance(changed, OrderDraft):
        # Where a price is missing, the list may say why.
        known = {problem.path: problem for problem in listed.problems}
        return tuple(known.get(problem.path, problem) for problem in changed)
    if unknown := await _unknown_skus(session, versions.current, changed, listed.request):
        return unknown
    missing = await _not_there(session, order_id, versions.current, changed, kept=kept, keeps=keeps)
    moved = await reads.money(session, order_id, order.currency)
    shown = preview(
        order_id,
        versions,
        changed,
        kept,
        held=moved.held,
        captured=moved.captured,
        notes=[*listed.notes, *missing, *_notes(versions.current, changed, shipments, keeps)],
    )
    if (beyond := await _beyond_its_tender(session, order_id, changed, shown, moved)) is not None:
        return (beyond,)
    return _Prepared(versions=versions, request=listed.request, draft=changed, shown=shown)


async def _beyond_its_tender(
    session: AsyncSession, order_id: str, changed: OrderDraft, shown: AmendmentPreview, moved: MoneyTotals
) -> Problem | None:
    """Why an account, a gift card or a credit does not pay for the higher total. Of a card only its bank knows."""
    tender = changed.tenders[0]
    if tender.kind is TenderKind.CARD or len(changed.tenders) > 1 or await tenders_of(session, order_id):
        return None
    if shown.difference.minor <= 0 or shown.to_authorise.minor <= 0:
        return None
    # The parcels that go on are paid from what is held already: only the rest of it makes room.
    needed = max(0, (shown.kept - moved.captured).minor)
    code = await accounts.why_not(
        session,
        tender.kind,
        tender.token,
        shown.to_authorise,
        superseded=max(0, moved.held.minor - needed),
    )
    if code is None:
        return None
    what = tender.kind.value.replace("_", " ")
    return Problem(
        path="tenders",
        code=code,
        message=f"the order would need {shown.to_authorise} of the customer's {what}, which does not give that much: "
        "ask for less, or have it raised first",
    )


async def _with_prices(session: AsyncSession, versions: Versions, request: AmendmentRequest) -> Priced:
    """``request`` with what the customer's price list says of lines that it names no price for."""
    if all(change.unit_price_minor is not None or change.quantity == 0 for change in request.lines):
        return Priced(request=request)
    skus = {line.sku for line in versions.first.lines} | {line.sku for line in request.lines if line.sku}
    agreed = await agreed_for_order(session, versions.current, skus)
    if not isinstance(agreed, AgreedPrices):
        return Priced(request=request, notes=() if agreed is None else (agreed.why,))
    return priced(versions, request, agreed, (await policies.active(session)).pricing)


async def _unknown_service(session: AsyncSession, request: AmendmentRequest) -> tuple[Problem, ...]:
    if request.service is None:
        return ()
    offered = await active_services(session)
    if request.service in offered:
        return ()
    message = f"is {request.service}, which the network does not have: it has {', '.join(offered) or 'none'}"
    return (Problem(path="service", code="unknown_service", message=message),)


async def _unknown_skus(
    session: AsyncSession, before: OrderDraft, after: OrderDraft, request: AmendmentRequest
) -> tuple[Problem, ...]:
    """An order with a SKU that nobody has would wait for ever, with all else that is in it."""
    added = {line.sku for line in after.lines} - {line.sku for line in before.lines}
    lines_of = {line.line_id: line.sku for line in after.lines}
    paths = {
        change.sku or lines_of.get(change.line_id or ""): f"lines[{index}].sku"
        for index, change in enumerate(request.lines)
    }
    return tuple(
        Problem(
            path=paths.get(sku, "lines"),
            code="unknown_sku",
            message=f"no node stocks {sku}, and none expects a delivery of it: check the SKU, or announce the delivery "
            "first",
        )
        for sku in (await unknown_skus(session, added) if added else ())
    )


async def _not_there(
    session: AsyncSession,
    order_id: str,
    before: OrderDraft,
    after: OrderDraft,
    *,
    kept: Kept,
    keeps: Sequence[ShipmentView],
) -> list[str]:
    """What is to be said of units that are newly asked for and not there now."""
    had, wanted = _units_by_sku(before), _units_by_sku(after)
    more = {sku for sku, units in wanted.items() if units > had[sku]}
    if not more:
        return []
    for (_, sku), units in kept.units().items():
        wanted[sku] -= units
    going_on = [shipment.shipment_id for shipment in keeps]
    there, shared = Counter[str](), dict[str, int | None]()
    for level in await stock_of(session, more, order_id, goes_on=going_on):
        there[level.sku] += level.available if level.active else 0
        shared[level.sku] = level.shared
    notes = []
    for sku in sorted(more):
        together = shared.get(sku)
        found = there[sku] if together is None else max(min(there[sku], together), 0)
        if (missing := wanted[sku] - found) > 0:
            are = "is" if missing == 1 else "are"
            notes.append(f"{missing:,} of {wanted[sku]:,} {sku} {are} not there now: the order would wait")
    return notes


def _units_by_sku(draft: OrderDraft) -> Counter[str]:
    units = Counter[str]()
    for line in draft.lines:
        units[line.sku] += line.quantity
    return units


async def _kept(session: AsyncSession, order: OrderRow, shipments: Sequence[ShipmentView]) -> Kept:
    plans = await plan_of_each(session, order.order_id)
    kept = [
        KeptShipment(plan_id=plans[shipment.number], number=shipment.number)
        for shipment in shipments
        if shipment.number in plans
    ]
    return Kept(
        lines=await kept_lines(session, order.order_id, kept),
        amount=Money.total((shipment.amount for shipment in shipments), order.currency),
    )


def _notes(
    before: OrderDraft, after: OrderDraft, shipments: Sequence[ShipmentView], keeps: Sequence[ShipmentView]
) -> list[str]:
    kept = {shipment.number for shipment in keeps}
    notes = [
        f"shipment {shipment.number} is {shipment.state} and goes on as it is: {shipment.units} units, "
        f"{shipment.amount}"
        for shipment in keeps
    ]
    for shipment in shipments:
        if shipment.number in kept or shipment.state is ShipmentState.CANCELLED:
            continue
        if shipment.state in _UNCLEAR:
            notes.append(
                f"shipment {shipment.number} is {shipment.state}: whether it can still be planned anew shows when the "
                "amendment is applied"
            )
        else:
            notes.append(f"shipment {shipment.number} is not picked yet: it is called off and planned anew")
    if kept:
        changed = [
            name
            for name, differs in (
                ("address", before.ship_to != after.ship_to),
                ("service", before.carrier_service != after.carrier_service),
                ("delivery date", before.promise_by != after.promise_by),
            )
            if differs
        ]
        notes += [f"the new {name} is for what is not packed yet, and for nothing else" for name in changed]
    return notes


# --- applying ---
async def _worked_out(
    session: AsyncSession, order: OrderRow, row: AmendmentRow, kept: Kept, refused: Problem | None
) -> OrderDraft | Problem:
    """The document that the amendment makes now, or why it is refused."""
    if refused is not None:
        return refused
    if order.state in ORDER_TERMINAL:
        ended = cut_off(OrderState(order.state))
        assert ended is not None  # noqa: S101 - of every end there is something to say
        return ended
    if row.base_version != order.document_version:
        return Problem(
            path="base_version",
            code="stale_version",
            message=f"it was made of version {row.base_version}, and version {order.document_version} is in force by "
            "now: look at the order again, then say what is to be different",
        )
    request = AmendmentRequest.model_validate(row.request)
    versions = await _versions(session, row.order_id)
    changed = amend(versions, request, kept)
    if isinstance(changed, OrderDraft):
        problems = await _unknown_skus(session, versions.current, changed, request)
    else:
        problems = changed
    if problems or not isinstance(changed, OrderDraft):
        return problems[0].model_copy(update={"message": "; ".join(problem.message for problem in problems)})
    proposed = row.document["totals"]["total_minor"]
    if changed.totals.total_minor > max(proposed, kept.amount.minor):
        return Problem(
            path="totals",
            code="preview_outdated",
            message="what is packed is not what it was when this was proposed, and the total would be higher than was "
            "shown: look at the preview again",
        )
    return changed


async def _put_in_force(
    session: AsyncSession, order: OrderRow, row: AmendmentRow, changed: OrderDraft, kept: Kept
) -> None:
    shown = AmendmentPreview.model_validate(row.preview)
    versions = await _versions(session, row.order_id)
    now = _now()
    final = preview(row.order_id, versions, changed, kept, held=kept.amount, captured=kept.amount)
    # What was to be held and given back was true when it was shown; it has been done by now.
    row.preview = final.model_copy(
        update={"to_authorise": shown.to_authorise, "to_release": shown.to_release, "notes": shown.notes}
    ).model_dump(mode="json")
    row.document = changed.model_dump(mode="json")
    row.document_hash = canonical_hash(changed)
    row.state, row.decided_at = AmendmentState.APPLIED, now
    for name, value in document_facts(changed).items():
        setattr(order, name, value)
    order.document_version, order.updated_at = row.number, now
    await session.flush()
    await session.execute(delete(OrderLineRow).where(col(OrderLineRow.order_id) == row.order_id))
    await session.execute(insert(OrderLineRow), line_rows(row.order_id, changed))
    await _outdate_others(session, row)


async def _outdate_others(session: AsyncSession, row: AmendmentRow) -> None:
    """What was proposed for the version before can never be applied any more, whether its run hears of it or not."""
    refusal = Problem(
        path="base_version",
        code="stale_version",
        message=f"version {row.number} came first: look at the order again, then say what is to be different",
    )
    await refuse_what_waits(session, row.order_id, refusal)


async def _refuse(session: AsyncSession, row: AmendmentRow, refusal: Problem) -> None:
    row.state, row.refusal, row.decided_at = AmendmentState.REFUSED, refusal.model_dump(mode="json"), _now()
    await session.flush()


def _applied(order: OrderRow, row: AmendmentRow, draft: OrderDraft, kept: Kept) -> AmendmentApplied:
    facts = OrderFacts(
        order_id=row.order_id,
        document_hash=row.document_hash,
        channel=draft.channel,
        # Decided when the order came in: an amendment makes no other customer of anybody.
        customer_type=CustomerType(order.customer_type) if order.customer_type else classify(draft)[0],
        total=Money(minor=draft.totals.total_minor, currency=draft.currency),
        goods=Money(minor=draft.totals.lines_minor, currency=draft.currency),
        line_count=len(draft.lines),
        unit_count=sum(line.quantity for line in draft.lines),
        max_line_quantity=max(line.quantity for line in draft.lines),
        ship_country=draft.ship_to.country,
        placed_at=draft.placed_at,
        promise_by=draft.promise_by,
    )
    return AmendmentApplied(facts=facts, units_left=units_left(draft, kept))


async def _entry(session: AsyncSession, effect: ApplyAmendment, row: AmendmentRow) -> dict[str, Any]:
    at = _now()
    return {
        "entry_id": f"{order_workflow_id(row.order_id)}/amendment/{row.number}",
        "order_id": row.order_id,
        "at": at,
        "business_at": await _business_time(session, effect, at),
        "actor": row.request["actor"],
        "details": {
            "amendment_id": row.amendment_id,
            "request_id": row.request_id,
            "base_version": row.base_version,
        },
    }


async def _write(session: AsyncSession, entry: dict[str, Any], kind: str, what: str, why: str) -> None:
    written = TimelineEntry(**entry, kind=kind, what=what, why=why)
    await session.execute(
        insert(TimelineRow)
        .values(**written.model_dump(), recorded_at=_now())
        .on_conflict_do_nothing(index_elements=["entry_id"])
    )


async def _business_time(session: AsyncSession, effect: ApplyAmendment, at: datetime) -> datetime:
    """Now by the order's business clock, which went on from what was written last: by ``record``, as it is called."""
    last = (
        await session.execute(
            select(col(TimelineRow.at), col(TimelineRow.business_at), col(IntakeRow.speed))
            .join(IntakeRow, col(IntakeRow.order_id) == col(TimelineRow.order_id))
            .where(col(TimelineRow.order_id) == effect.order_id)
            .order_by(col(TimelineRow.position).desc())
            .limit(1)
        )
    ).one_or_none()
    return at if last is None else last.business_at + (at - last.at) * last.speed


# --- reading ---
async def _locked_order(session: AsyncSession, order_id: str) -> OrderRow | None:
    return await session.get(OrderRow, order_id, with_for_update={"key_share": True}, populate_existing=True)


async def _versions(session: AsyncSession, order_id: str) -> Versions:
    current = await stored_draft(session, order_id)
    if current.version == 1:
        return Versions.unamended(current.draft)
    stated_by = await _stated_by(session, order_id, current.version)
    return Versions(
        first=(await stored_draft(session, order_id, 1)).draft,
        stated=(await stored_draft(session, order_id, stated_by)).draft,
        current=current.draft,
        number=current.version,
    )


async def _stated_by(session: AsyncSession, order_id: str, version: int) -> int:
    found = await session.scalar(
        select(col(AmendmentRow.stated_by)).where(
            col(AmendmentRow.order_id) == order_id, col(AmendmentRow.number) == version
        )
    )
    return found or 1


def _proposal(row: AmendmentRow, *, repeated: bool) -> Proposal:
    total = OrderDraft.model_validate(row.document).totals.total_minor
    return Proposal(
        view=_view(row),
        total=Money(minor=total, currency=row.document["currency"]),
        repeated=repeated,
    )


def _view(row: AmendmentRow) -> AmendmentView:
    return AmendmentView(
        amendment_id=row.amendment_id,
        order_id=row.order_id,
        number=row.number,
        state=AmendmentState(row.state),
        request_id=row.request_id,
        actor=row.request["actor"],
        reason=row.request["reason"],
        preview=AmendmentPreview.model_validate(row.preview),
        refusal=None if row.refusal is None else Problem.model_validate(row.refusal),
        created_at=row.created_at,
        decided_at=row.decided_at,
    )


def _fingerprint(request: AmendmentRequest) -> str:
    """Of what is asked for, however it is written. Defaults do not count, so that later fields change no old one."""
    content = request.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _money(order: OrderRow) -> Money:
    return Money(minor=order.total_minor, currency=order.currency)


def _now() -> datetime:
    return datetime.now(UTC)
