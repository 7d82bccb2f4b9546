"""Price lists: loaded version by version, assigned to business customers, and asked what an order ought to cost.

A load and an assignment are one transaction each. Whoever writes to a list holds its row, so that versions are numbered
one after another; that nobody gets two lists for the same moment is the database's to refuse.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from psycopg.errors import ExclusionViolation
from sqlalchemy import and_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.errors import (
    CurrencyMismatch,
    InvalidDocument,
    NoPriceList,
    NotFound,
    PriceListsOverlap,
    PriceNotListed,
)
from models.money import Money
from models.order import CustomerType, OrderDraft, TenderKind
from models.prices import (
    NO_END,
    AgreedPrice,
    AgreedPrices,
    AssigneeKind,
    AssignmentView,
    NoAgreedPrices,
    PriceListContent,
    PriceListDocument,
    PriceListLoaded,
    PriceListView,
    PriceView,
)
from models.tables.prices import PriceAssignmentRow, PriceListRow, PriceListVersionRow, PriceRow
from policies.classification import classify
from policies.pricing import CURRENCY, EXPIRED, problems_of_list, why_unlisted

_ASSIGNING = 0x0DE1231B


class Customer(Contract):
    """By what a customer's list is found: both are known of an order that is paid on account."""

    customer_ref: str | None = None
    accounts: tuple[str, ...] = ()

    @classmethod
    def of(cls, draft: OrderDraft) -> "Customer":
        """The customer of an order."""
        accounts = (tender.token for tender in draft.tenders if tender.kind is TenderKind.ON_ACCOUNT)
        return cls(customer_ref=draft.customer.customer_ref, accounts=tuple(accounts))


# --- writing ---
async def load(
    session: AsyncSession, document: PriceListDocument, *, actor: str, reason: str | None = None
) -> PriceListLoaded:
    """Make ``document`` the list's content, as its next version; one that is like it already changes nothing.

    Raises ``InvalidDocument`` with all that makes no sense in it, ``CurrencyMismatch`` for a list of another currency,
    and ``PriceListsOverlap`` if somebody would have two lists for the same moment by its new time.
    """
    if problems := problems_of_list(document):
        raise InvalidDocument(problems)
    now, until = datetime.now(UTC), document.valid_until or NO_END
    await session.execute(
        insert(PriceListRow)
        .values(
            list_id=document.list_id,
            currency=document.currency,
            valid_from=document.valid_from,
            valid_until=until,
            version=1,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=["list_id"])
    )
    row = await _row(session, document.list_id, lock=True)
    if row.currency != document.currency:
        raise CurrencyMismatch(
            f"price list {row.list_id} is in {row.currency}, not {document.currency}: give the other an id of its own"
        )
    before = await session.get(PriceListVersionRow, (row.list_id, row.version))
    content = _hash(document)
    if before is not None and before.content_hash == content:
        return PriceListLoaded(changed=False, price_list=await price_list(session, row.list_id))
    if before is not None:
        row.version += 1
    row.valid_from, row.valid_until, row.updated_at = document.valid_from, until, now
    await _unless_overlapping(session)
    session.add(
        PriceListVersionRow(
            list_id=row.list_id,
            version=row.version,
            name=document.name,
            valid_from=document.valid_from,
            valid_until=until,
            content_hash=content,
            price_count=len(document.prices),
            loaded_at=now,
            loaded_by=actor,
            reason=reason,
        )
    )
    await session.flush()
    await session.execute(
        insert(PriceRow),
        [price.model_dump() | {"list_id": row.list_id, "version": row.version} for price in document.prices],
    )
    return PriceListLoaded(changed=True, price_list=await price_list(session, row.list_id))


async def assign(
    session: AsyncSession,
    list_id: str,
    kind: AssigneeKind,
    assignee: str | None,
    *,
    actor: str,
    reason: str | None = None,
) -> PriceListView:
    """Have a list hold for ``assignee``; where it does already, nothing changes.

    Raises ``NotFound``, and ``PriceListsOverlap`` when another list of the same currency holds for them then.
    """
    row = await _row(session, list_id, lock=True)
    views = await price_list(session, list_id)
    if (kind, assignee) not in {(one.kind, one.assignee) for one in views.assigned_to}:
        session.add(
            PriceAssignmentRow(
                list_id=list_id,
                currency=row.currency,
                valid_from=row.valid_from,
                valid_until=row.valid_until,
                kind=kind,
                assignee=assignee or "",
                assigned_at=datetime.now(UTC),
                assigned_by=actor,
                reason=reason,
            )
        )
        await _unless_overlapping(session)
    return await price_list(session, list_id)


async def withdraw(
    session: AsyncSession, list_id: str, kind: AssigneeKind, assignee: str | None, *, actor: str
) -> PriceListView:
    """Have a list not hold for ``assignee`` any more; where it does not, nothing changes. Raises ``NotFound``."""
    await _row(session, list_id, lock=True)
    await session.execute(
        update(PriceAssignmentRow)
        .where(
            col(PriceAssignmentRow.list_id) == list_id,
            col(PriceAssignmentRow.kind) == kind,
            col(PriceAssignmentRow.assignee) == (assignee or ""),
            col(PriceAssignmentRow.ended_at).is_(None),
        )
        .values(ended_at=datetime.now(UTC), ended_by=actor)
        .execution_options(synchronize_session=False)
    )
    return await price_list(session, list_id)


# --- what was agreed ---
async def agreed_for_order(
    session: AsyncSession, draft: OrderDraft, skus: Collection[str] = ()
) -> AgreedPrices | NoAgreedPrices | None:
    """The prices that hold for an order's lines, and for further ``skus``; None for consumers, who are never asked for.

    Also None for a business that no list is for.
    """
    customer_type, _ = classify(draft)
    if customer_type is not CustomerType.B2B:
        return None
    wanted = {line.sku for line in draft.lines} | set(skus)
    return await agreed(session, Customer.of(draft), draft.currency, draft.placed_at, wanted)


async def agreed(
    session: AsyncSession, customer: Customer, currency: str | None, at: datetime, skus: Collection[str]
) -> AgreedPrices | NoAgreedPrices | None:
    """The list that holds for ``customer`` at a moment, with its prices of ``skus``; or why none of theirs holds.

    One that names the customer counts before one that names the account that pays, and that before the default; of a
    customer with lists in several currencies and without ``currency``, the first that holds. None for whom no list is.
    """
    assigned = await _assigned_to(session, customer)
    valid = [(row, version) for row, version in assigned if row.valid_from <= at < row.valid_until]
    for row, version in valid:
        if currency in (None, row.currency):
            return AgreedPrices(
                list_id=row.list_id,
                version=version,
                currency=row.currency,
                assigned_to=AssigneeKind(row.kind),
                breaks=await _breaks(session, row.list_id, version, skus),
            )
    if valid:
        row, _ = valid[0]
        return NoAgreedPrices(
            code=CURRENCY, why=f"price list {row.list_id} is in {row.currency}, the order in {currency}"
        )
    if assigned:
        names = ", ".join(sorted({row.list_id for row, _ in assigned}))
        return NoAgreedPrices(
            code=EXPIRED, why=f"no price list of the customer holds on {at:%Y-%m-%d} ({names})"
        )
    return None


async def quote(
    session: AsyncSession, customer: Customer, sku: str, quantity: int, *, currency: str | None, at: datetime
) -> AgreedPrice:
    """What ``quantity`` units of a SKU cost a customer at a moment.

    Raises ``NoPriceList`` when no list holds for them, ``CurrencyMismatch`` when only one of another currency does, and
    ``PriceNotListed`` when it has no price for so many.
    """
    found = await agreed(session, customer, currency, at, [sku])
    if isinstance(found, AgreedPrices):
        return _priced(found, sku, quantity)
    if found is None:
        raise NoPriceList("no price list is for this customer: assign one, or the default of every business")
    raise CurrencyMismatch(found.why) if found.code == CURRENCY else NoPriceList(found.why)


async def quote_from(session: AsyncSession, list_id: str, sku: str, quantity: int) -> AgreedPrice:
    """What ``quantity`` units of a SKU cost by a list, whenever it holds. Raises ``NotFound``, ``PriceNotListed``."""
    row = await _row(session, list_id)
    found = AgreedPrices(
        list_id=list_id,
        version=row.version,
        currency=row.currency,
        breaks=await _breaks(session, list_id, row.version, [sku]),
    )
    return _priced(found, sku, quantity)


# --- looking ---
async def price_lists(session: AsyncSession) -> tuple[PriceListView, ...]:
    """Every list, by its id."""
    rows = await session.scalars(select(PriceListRow).order_by(col(PriceListRow.list_id)))
    return await _views(session, rows.all())


async def price_list(session: AsyncSession, list_id: str) -> PriceListView:
    """One list. Raises ``NotFound``."""
    [view] = await _views(session, [await _row(session, list_id)])
    return view


async def content(
    session: AsyncSession,
    list_id: str,
    *,
    sku: str | None = None,
    from_sku: str | None = None,
    version: int | None = None,
    limit: int = 100,
) -> PriceListContent:
    """A list and its prices, whole SKUs at a time: about ``limit`` of them, from ``from_sku`` on, or one ``sku``'s.

    Those of the version in force, or of an earlier one. Raises ``NotFound``.
    """
    row = await _row(session, list_id)
    number = row.version if version is None else version
    if await session.get(PriceListVersionRow, (list_id, number)) is None:
        raise NotFound(f"price list {list_id} has no version {number}: it is at {row.version}")
    of_version = (col(PriceRow.list_id) == list_id, col(PriceRow.version) == number)
    skus = select(col(PriceRow.sku)).where(*of_version).distinct().order_by(col(PriceRow.sku))
    if sku is not None:
        skus = skus.where(col(PriceRow.sku) == sku)
    if from_sku is not None:
        skus = skus.where(col(PriceRow.sku) >= from_sku)
    found = (await session.scalars(skus.limit(limit + 1))).all()
    breaks = await _breaks(session, list_id, number, found[:limit])
    return PriceListContent(
        price_list=await price_list(session, list_id),
        prices=tuple(
            PriceView(sku=name, min_quantity=least, unit_price=Money(minor=minor, currency=row.currency))
            for name in found[:limit]
            for least, minor in breaks[name]
        ),
        next_sku=found[limit] if len(found) > limit else None,
    )


def _priced(found: AgreedPrices, sku: str, quantity: int) -> AgreedPrice:
    reached = found.at(sku, quantity)
    if reached is None:
        raise PriceNotListed(why_unlisted(found, sku))
    unit_price = Money(minor=reached[1], currency=found.currency)
    higher = [price for price in found.breaks[sku] if price[0] > quantity]
    return AgreedPrice(
        sku=sku,
        quantity=quantity,
        unit_price=unit_price,
        amount=unit_price * quantity,
        list_id=found.list_id,
        version=found.version,
        assigned_to=found.assigned_to,
        min_quantity=reached[0],
        next_break=PriceView(
            sku=sku, min_quantity=higher[0][0], unit_price=Money(minor=higher[0][1], currency=found.currency)
        )
        if higher
        else None,
    )


async def _assigned_to(session: AsyncSession, customer: Customer) -> Sequence[tuple[PriceAssignmentRow, int]]:
    """What is assigned to a customer and the version of it that is in force, in the order in which it counts."""
    names = [] if customer.customer_ref is None else [(AssigneeKind.CUSTOMER, customer.customer_ref)]
    names += [(AssigneeKind.ACCOUNT, account) for account in customer.accounts]
    names += [(AssigneeKind.EVERY_BUSINESS, "")]
    rows = await session.execute(
        select(PriceAssignmentRow, col(PriceListRow.version))
        .join(PriceListRow, col(PriceListRow.list_id) == col(PriceAssignmentRow.list_id))
        .where(
            col(PriceAssignmentRow.ended_at).is_(None),
            tuple_(col(PriceAssignmentRow.kind), col(PriceAssignmentRow.assignee)).in_(names),
        )
        .order_by(col(PriceAssignmentRow.list_id))
    )
    found = [(row, version) for row, version in rows]
    return sorted(found, key=lambda one: names.index((AssigneeKind(one[0].kind), one[0].assignee)))


async def _breaks(
    session: AsyncSession, list_id: str, version: int, skus: Collection[str]
) -> dict[str, tuple[tuple[int, int], ...]]:
    rows = await session.execute(
        select(col(PriceRow.sku), col(PriceRow.min_quantity), col(PriceRow.unit_price_minor))
        .where(
            col(PriceRow.list_id) == list_id,
            col(PriceRow.version) == version,
            col(PriceRow.sku).in_(sorted(skus)),
        )
        .order_by(col(PriceRow.sku), col(PriceRow.min_quantity))
    )
    breaks: dict[str, tuple[tuple[int, int], ...]] = {}
    for sku, least, minor in rows:
        breaks[sku] = (*breaks.get(sku, ()), (least, minor))
    return breaks


async def _views(session: AsyncSession, rows: Sequence[PriceListRow]) -> tuple[PriceListView, ...]:
    ids = [row.list_id for row in rows]
    loaded = await session.scalars(
        select(PriceListVersionRow)
        .join(
            PriceListRow,
            and_(
                col(PriceListRow.list_id) == col(PriceListVersionRow.list_id),
                col(PriceListRow.version) == col(PriceListVersionRow.version),
            ),
        )
        .where(col(PriceListVersionRow.list_id).in_(ids))
    )
    versions = {version.list_id: version for version in loaded}
    assigned = await session.scalars(
        select(PriceAssignmentRow)
        .where(col(PriceAssignmentRow.list_id).in_(ids), col(PriceAssignmentRow.ended_at).is_(None))
        .order_by(col(PriceAssignmentRow.kind), col(PriceAssignmentRow.assignee))
    )
    holds_for: dict[str, list[AssignmentView]] = {}
    for one in assigned:
        holds_for.setdefault(one.list_id, []).append(
            AssignmentView(
                kind=AssigneeKind(one.kind),
                assignee=one.assignee or None,
                assigned_at=one.assigned_at,
                assigned_by=one.assigned_by,
            )
        )
    return tuple(_view(row, versions[row.list_id], holds_for.get(row.list_id, ())) for row in rows)


def _view(
    row: PriceListRow, loaded: PriceListVersionRow, holds_for: Sequence[AssignmentView]
) -> PriceListView:
    return PriceListView(
        list_id=row.list_id,
        name=loaded.name,
        currency=row.currency,
        valid_from=row.valid_from,
        valid_until=None if row.valid_until == NO_END else row.valid_until,
        version=row.version,
        prices=loaded.price_count,
        loaded_at=loaded.loaded_at,
        loaded_by=loaded.loaded_by,
        reason=loaded.reason,
        assigned_to=tuple(holds_for),
    )


async def _row(session: AsyncSession, list_id: str, *, lock: bool = False) -> PriceListRow:
    row = await session.get(PriceListRow, list_id, with_for_update=lock or None, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no price list {list_id}")
    return row


async def _unless_overlapping(session: AsyncSession) -> None:
    """Write what waits to be written. Raises ``PriceListsOverlap`` when the database refuses it as ambiguous.

    One at a time: two that exclude each other would otherwise wait for each other.
    """
    with session.no_autoflush:
        await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ASSIGNING})
    try:
        await session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, ExclusionViolation):
            raise
        raise PriceListsOverlap(
            "another price list of this currency holds for the same customer at the same time, so nobody could say "
            "which one counts: end that one first, or withdraw it"
        ) from error


def _hash(document: PriceListDocument) -> str:
    """Of what is in a list, in whatever order its prices are said."""
    content = document.model_dump(mode="json")
    content["prices"] = sorted(content["prices"], key=lambda price: (price["sku"], price["min_quantity"]))
    content |= {
        name: None if moment is None else moment.astimezone(UTC).isoformat()
        for name, moment in (("valid_from", document.valid_from), ("valid_until", document.valid_until))
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
