"""What an order's document becomes by an amendment, and what that does to its money.

Nothing is derived from what an earlier amendment derived: lines and the billing address go back to the document that
came in, taxes and discounts to the document whose charges somebody stated. So an amendment that takes another one back
restores the document, and many amendments come to the same as one that says it all at once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.amendment import AmendmentPreview, AmendmentRequest, LineChange, LineDifference
from models.base import Contract
from models.errors import InvalidDocument, Problem
from models.money import MAX_MINOR, Money
from models.order import MAX_LINES, Address, ChargeKind, DraftCharge, DraftLine, OrderDraft, Tender
from models.plan import PlannedLine
from models.prices import AgreedPrices
from models.states import OrderState
from policies.intake import check_parsed
from policies.pricing import UNLISTED, PricePolicy, why_unlisted

# The charge that makes the total what the kept parcels take, once nothing else is to be shipped.
REST_CODE = "AMENDED-REST"
PRICE_MISSING = "price_missing"
_FOLLOW_THE_GOODS = frozenset({ChargeKind.TAX, ChargeKind.DISCOUNT})

# What stands in the way is how far the order is, or what its tender gives, not how the request is written.
NOT_NOW = frozenset(
    {
        "below_shipped",
        "being_cancelled",
        "currency_mismatch",
        "everything_left",
        "not_enough_value",
        "order_ended",
        "over_credit_limit",
        "stale_version",
        "tender_inactive",
        "total_below_shipped",
        "unknown_tender",
    }
)


class Kept(Contract):
    """What goes on as it was planned: the units of shipments that are packed or gone, and their part of the total."""

    lines: tuple[PlannedLine, ...] = ()
    amount: Money

    def units(self) -> Counter[tuple[str, str]]:
        """Kept units by line and SKU."""
        units: Counter[tuple[str, str]] = Counter()
        for line in self.lines:
            units[(line.line_id, line.sku)] += line.quantity
        return units


class Versions(Contract):
    """The documents that an amendment starts from.

    ``current`` is in force, as version ``number``; ``first`` came in; of ``stated`` somebody said the charges: the one
    that came in, or the last amendment with charges of its own.
    """

    first: OrderDraft
    stated: OrderDraft
    current: OrderDraft
    number: int = 1

    @classmethod
    def unamended(cls, draft: OrderDraft) -> "Versions":
        """Those of an order that was never amended."""
        return cls(first=draft, stated=draft, current=draft)


class Priced(Contract):
    """A request with the prices that a list gives it, what is to be said of them, and what the list does not have."""

    request: AmendmentRequest
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def amend(versions: Versions, request: AmendmentRequest, kept: Kept) -> OrderDraft | tuple[Problem, ...]:
    """The document that ``request`` makes of the one in force, or every problem that stands in the way.

    A tax or discount of amount ``a`` in the stated document with goods ``g`` becomes ``a * goods / g``, each rounded
    to the minor unit by itself, halves away from zero; where ``g`` is zero it stays. Other charges stay, the tender
    follows the total. If no unit is left to be shipped beside ``kept``, the total is what those take, by an adjustment
    under ``REST_CODE``: what the rest of the order would have borne of postage and the like falls away with it.
    """
    if problems := tuple(_stale(versions, request)):
        return problems
    lines, problems = _lines(versions, request.lines)
    problems += tuple(_of_charges(request)) + tuple(_of_units(lines, kept)) if not problems else ()
    if problems:
        return problems
    changed = _changed(versions, request, lines, kept)
    if problems := tuple(_of_tenders(versions, changed)):
        return problems
    problems = tuple(_of_money(changed, request, kept)) + tuple(_of_the_rest(versions, changed, kept))
    if not problems and changed == versions.current.model_dump(mode="json"):
        problems = (
            Problem(
                path="",
                code="nothing_changes",
                message=f"the order is like this already, in version {versions.number}",
            ),
        )
    if problems:
        return problems
    try:
        return check_parsed(changed)
    except InvalidDocument as invalid:
        return invalid.problems


def priced(
    versions: Versions, request: AmendmentRequest, agreed: AgreedPrices, policy: PricePolicy
) -> Priced:
    """``request`` with prices of the customer's list where it names none.

    A line that is added costs what the list says for so many units, and so does one whose quantity changes. But a line
    that has another price than the list's keeps it, for somebody agreed to it, and one that is asked for as the order
    came in has the price that it came in with. What nobody can tell is left for ``amend`` to refuse.
    """
    current = {line.line_id: line for line in versions.current.lines}
    first = {line.line_id: line for line in versions.first.lines}
    changes: list[LineChange] = []
    notes: list[str] = []
    problems: list[Problem] = []
    for index, change in enumerate(request.lines):
        price: int | None = None
        if change.unit_price_minor is None and change.quantity:
            found = _line_meant(versions, current, change, f"lines[{index}]")
            if isinstance(found, DraftLine):
                before = current.get(found.line_id) or first[found.line_id]
                price, note = _followed(agreed, policy, before, first.get(found.line_id), change.quantity)
                notes += note
            elif found.code == PRICE_MISSING and change.sku is not None:
                if (reached := agreed.at(change.sku, change.quantity)) is None:
                    problems.append(_not_listed(agreed, change.sku, found.path))
                else:
                    price = reached[1]
                    notes.append(_costs(agreed, change.sku, reached))
        changes.append(change if price is None else change.model_copy(update={"unit_price_minor": price}))
    return Priced(
        request=request.model_copy(update={"lines": tuple(changes)}),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def preview(
    order_id: str,
    versions: Versions,
    changed: OrderDraft,
    kept: Kept,
    *,
    held: Money,
    captured: Money,
    notes: Sequence[str] = (),
) -> AmendmentPreview:
    """What ``changed`` does to the order's money.

    ``held`` is what the customer's tender is held for now, ``captured`` what of the total was taken already: the kept
    shipments take the rest of their part from what is held.
    """
    before = versions.current

    def money(minor: int) -> Money:
        return Money(minor=minor, currency=before.currency)

    total, zero = money(changed.totals.total_minor), money(0)
    free = max(held - max(kept.amount - captured, zero), zero)
    due = total - kept.amount
    enough = due <= free
    return AmendmentPreview(
        order_id=order_id,
        base_version=versions.number,
        lines=_differences(before, changed),
        goods_before=money(before.totals.lines_minor),
        goods_after=money(changed.totals.lines_minor),
        charges_before=money(before.totals.charges_minor),
        charges_after=money(changed.totals.charges_minor),
        total_before=money(before.totals.total_minor),
        total_after=total,
        difference=total - money(before.totals.total_minor),
        kept=kept.amount,
        to_authorise=zero if enough else due,
        to_release=free - due if enough else free,
        address_changes=changed.ship_to != before.ship_to,
        service=changed.carrier_service,
        promise_by=changed.promise_by,
        notes=tuple(notes),
    )


def cut_off(state: OrderState) -> Problem | None:
    """Why an order in ``state`` cannot be amended any more, whatever the change; None while it may be."""
    if state in (OrderState.CANCELLED, OrderState.COMPENSATED, OrderState.REJECTED):
        return Problem(path="", code="order_ended", message=f"the order is {state}: place a new one")
    if state in (OrderState.CLOSED, OrderState.DELIVERED, OrderState.SHIPPED):
        return Problem(
            path="",
            code="order_ended" if state is OrderState.CLOSED else "everything_left",
            message=f"the order is {state}: what is not wanted is returned, what is wanted besides is a new order",
        )
    if state in (OrderState.CANCELLING, OrderState.COMPENSATING):
        return Problem(
            path="", code="being_cancelled", message="the order is being called off: place a new one"
        )
    return None


def _stale(versions: Versions, request: AmendmentRequest) -> Iterator[Problem]:
    if request.base_version not in (None, versions.number):
        yield Problem(
            path="base_version",
            code="stale_version",
            message=f"is {request.base_version}, and the order's document is of version {versions.number} now: look "
            "at it again, then say what is to be different",
        )


# --- prices ---
def _followed(
    agreed: AgreedPrices, policy: PricePolicy, before: DraftLine, first: DraftLine | None, quantity: int
) -> tuple[int | None, list[str]]:
    """What a unit costs when there are ``quantity`` of a line; None where its price stays, and what is to be said."""

    def is_listed(line: DraftLine) -> bool:
        at = agreed.at(line.sku, line.quantity)
        return at is not None and policy.allows(
            Money(minor=at[1] * line.quantity, currency=agreed.currency),
            Money(minor=line.unit_price_minor * line.quantity, currency=agreed.currency),
        )

    reached = agreed.at(before.sku, quantity)
    if quantity == before.quantity:
        return None, []
    if reached is None or not is_listed(before):
        kept = Money(minor=before.unit_price_minor, currency=agreed.currency)
        says = why_unlisted(agreed, before.sku) if reached is None else _costs(agreed, before.sku, reached)
        return None, [f"line {before.line_id} keeps its price of {kept}: {says}"]
    if first is not None and quantity == first.quantity and is_listed(first):
        return first.unit_price_minor, []
    if reached[1] == before.unit_price_minor:
        return None, []
    return reached[1], [_costs(agreed, before.sku, reached)]


def _costs(agreed: AgreedPrices, sku: str, reached: tuple[int, int]) -> str:
    least, minor = reached
    units = "1 unit" if least == 1 else f"{least:,} units"
    return f"{sku} costs {Money(minor=minor, currency=agreed.currency)} from {units} on, by {agreed.named}"


def _not_listed(agreed: AgreedPrices, sku: str, path: str) -> Problem:
    message = f"{why_unlisted(agreed, sku)}: say the price of a unit, as it was agreed"
    return Problem(path=path, code=UNLISTED, message=message)


# --- lines ---
def _lines(
    versions: Versions, changes: Sequence[LineChange]
) -> tuple[tuple[DraftLine, ...], tuple[Problem, ...]]:
    """The lines after all ``changes``, in the first document's order, what is new behind it."""
    lines = {line.line_id: line for line in versions.current.lines}
    problems: list[Problem] = []
    touched: set[str] = set()
    for index, change in enumerate(changes):
        found = _line_meant(versions, lines, change, f"lines[{index}]")
        if isinstance(found, Problem):
            problems.append(found)
        elif found.line_id in touched:
            problems.append(
                Problem(
                    path=f"lines[{index}]",
                    code="duplicate_change",
                    message=f"changes line {found.line_id!r} a second time: say it once",
                )
            )
        else:
            touched.add(found.line_id)
            if change.quantity == 0:
                lines.pop(found.line_id, None)
            else:
                lines[found.line_id] = found
    if not lines and not problems:
        problems.append(
            Problem(
                path="lines", code="nothing_left", message="no line would be left: cancel the order instead"
            )
        )
    if len(lines) > MAX_LINES:
        problems.append(
            Problem(
                path="lines",
                code="too_many_lines",
                message=f"would be {len(lines):,}; at most {MAX_LINES:,} are accepted: place another order",
            )
        )
    place = {line.line_id: at for at, line in enumerate(versions.first.lines)}
    ordered = sorted(lines.values(), key=lambda line: place.get(line.line_id, len(place)))
    return tuple(ordered), tuple(problems)


def _line_meant(
    versions: Versions, lines: Mapping[str, DraftLine], change: LineChange, path: str
) -> DraftLine | Problem:
    """The line that ``change`` means, as it becomes; its quantity may be none."""
    if change.line_id is None and change.sku is None:
        return Problem(path=path, code="unknown_line", message="names no line: give its line_id or its sku")
    known = {line.line_id: line for line in versions.first.lines} | dict(lines)
    # A line that is there is meant before one that was taken away.
    for among in (dict(lines), known):
        named = [line for line in among.values() if _is_named(line, change)]
        if len(named) > 1:
            ids = ", ".join(line.line_id for line in named[:10])
            return Problem(
                path=path,
                code="ambiguous_sku",
                message=f"{len(named)} lines have SKU {change.sku}: say which by line_id ({ids})",
            )
        if named:
            line = named[0]
            if change.sku not in (None, line.sku):
                return Problem(
                    path=path,
                    code="unknown_line",
                    message=f"line {line.line_id!r} is {line.sku}, not {change.sku}: a line keeps its SKU",
                )
            return _altered(line, change)
    return _added(known, change, path)


def _is_named(line: DraftLine, change: LineChange) -> bool:
    return line.line_id == change.line_id if change.line_id is not None else line.sku == change.sku


def _altered(line: DraftLine, change: LineChange) -> DraftLine:
    price = line.unit_price_minor if change.unit_price_minor is None else change.unit_price_minor
    return line.model_copy(
        update={
            "quantity": change.quantity,
            "unit_price_minor": price,
            "description": change.description or line.description,
        }
    )


def _added(known: Mapping[str, DraftLine], change: LineChange, path: str) -> DraftLine | Problem:
    if change.sku is None or change.quantity == 0:
        named = repr(change.line_id) if change.sku is None else f"with SKU {change.sku}"
        return Problem(path=path, code="unknown_line", message=f"the order has no line {named}")
    if change.unit_price_minor is None:
        return Problem(
            path=f"{path}.unit_price_minor",
            code=PRICE_MISSING,
            message=f"the order has no {change.sku} so far: say the price of a unit, as it was agreed",
        )
    return DraftLine(
        line_id=change.line_id or _free_id(known, change.sku),
        sku=change.sku,
        description=change.description,
        quantity=change.quantity,
        unit_price_minor=change.unit_price_minor,
    )


def _free_id(known: Mapping[str, DraftLine], sku: str) -> str:
    """The SKU itself, which no other line has; where that is some line's id, with a number behind it."""
    number, candidate = 1, sku
    while candidate in known:
        number += 1
        candidate = f"{sku[:56]}-{number}"
    return candidate


# --- the document ---
def _changed(
    versions: Versions, request: AmendmentRequest, lines: tuple[DraftLine, ...], kept: Kept
) -> dict[str, object]:
    """The new document, not yet checked."""
    current = versions.current
    goods = sum(line.quantity * line.unit_price_minor for line in lines)
    charges = _charges(versions.stated, goods) if request.charges is None else request.charges
    total = goods + sum(charge.amount_minor for charge in charges)
    rest = kept.amount.minor - total
    # Somebody who states charges that are too low for what was shipped is not corrected, but told.
    if kept.lines and not _units_left(lines, kept) and (rest < 0 or (rest > 0 and request.charges is None)):
        charges, total = (*charges, _rest(rest)), kept.amount.minor
    ship_to = request.ship_to or current.ship_to
    changes: dict[str, object] = {
        "lines": [line.model_dump(mode="json") for line in lines],
        "charges": [charge.model_dump(mode="json") for charge in charges],
        "totals": {"lines_minor": goods, "charges_minor": total - goods, "total_minor": total},
        "tenders": [tender.model_dump(mode="json") for tender in _paying(current.tenders, total)],
        "ship_to": ship_to.model_dump(mode="json"),
        "bill_to": _dumped(_billing(versions.first, ship_to)),
    }
    if request.service is not None:
        changes["carrier_service"] = request.service
    if request.promise_by is not None:
        asked = current.model_copy(update={"promise_by": request.promise_by})
        changes["promise_by"] = asked.model_dump(mode="json")["promise_by"]
    return current.model_dump(mode="json") | changes


def _paying(tenders: Sequence[Tender], total: int) -> Sequence[Tender]:
    """One tender follows the total. Which of several were to pay how much of another total only the customer knows."""
    return tenders if len(tenders) > 1 else (tenders[0].model_copy(update={"amount_minor": total}),)


def _of_tenders(versions: Versions, changed: Mapping[str, Any]) -> Iterator[Problem]:
    total = changed["totals"]["total_minor"]
    if len(versions.current.tenders) > 1 and total != versions.current.totals.total_minor:
        yield Problem(
            path="",
            code="several_tenders",
            message="the order is paid by several tenders, so its total cannot be changed: change what leaves the "
            "total as it is, or cancel the order and send another one",
        )


def _charges(stated: OrderDraft, goods: int) -> tuple[DraftCharge, ...]:
    before = stated.totals.lines_minor
    return tuple(
        charge.model_copy(update={"amount_minor": _in_proportion(charge.amount_minor, goods, before)})
        if charge.kind in _FOLLOW_THE_GOODS
        else charge
        for charge in stated.charges
        if charge.code != REST_CODE
    )


def _in_proportion(amount: int, goods: int, before: int) -> int:
    if before == 0:
        return amount
    share = (2 * abs(amount) * goods + before) // (2 * before)
    return -share if amount < 0 else share


def _rest(amount: int) -> DraftCharge:
    return DraftCharge(
        code=REST_CODE,
        kind=ChargeKind.ADJUSTMENT,
        description="part of the charges that goods bore which are not ordered any more",
        amount_minor=amount,
    )


def _billing(first: OrderDraft, ship_to: Address) -> Address | None:
    """The bill goes where it went when the order came in, also when that was where the goods went."""
    if first.bill_to is None and ship_to != first.ship_to:
        return first.ship_to
    return first.bill_to


def _dumped(address: Address | None) -> dict[str, object] | None:
    return None if address is None else address.model_dump(mode="json")


# --- what stands in the way ---
def _of_charges(request: AmendmentRequest) -> Iterator[Problem]:
    for index, charge in enumerate(request.charges or ()):
        if charge.code == REST_CODE:
            yield Problem(
                path=f"charges[{index}].code",
                code="reserved_code",
                message=f"{REST_CODE} is made here, of what is left over: use another code",
            )


def _of_units(lines: tuple[DraftLine, ...], kept: Kept) -> Iterator[Problem]:
    wanted = {(line.line_id, line.sku): line.quantity for line in lines}
    for (line_id, sku), units in sorted(kept.units().items()):
        asked = wanted.get((line_id, sku), 0)
        if asked < units:
            yield Problem(
                path="lines",
                code="below_shipped",
                message=f"line {line_id}: {units} of {sku} are packed or on their way, so {asked} is too few: ask for "
                f"at least {units}, and have the customer return what is not wanted",
            )


def _of_money(changed: Mapping[str, object], request: AmendmentRequest, kept: Kept) -> Iterator[Problem]:
    totals = changed["totals"]
    assert isinstance(totals, dict)  # noqa: S101 - made above
    currency = kept.amount.currency
    if max(map(abs, totals.values())) > MAX_MINOR:
        yield Problem(
            path="totals",
            code="amount_too_large",
            message=f"would be over {Money(minor=MAX_MINOR, currency=currency)}: no order is that large",
        )
        return
    total = Money(minor=totals["total_minor"], currency=currency)
    if total < kept.amount:
        yield Problem(
            path="charges" if request.charges is not None else "totals",
            code="total_below_shipped",
            message=f"the total would be {total}, and what is packed or on its way takes {kept.amount}: keep the "
            "total, and refund the difference",
        )


def _of_the_rest(versions: Versions, changed: Mapping[str, object], kept: Kept) -> Iterator[Problem]:
    """Where the goods go, how and by when cannot be changed for goods that went."""
    lines = changed["lines"]
    assert isinstance(lines, list)  # noqa: S101 - made above
    if not kept.lines or sum(line["quantity"] for line in lines) > sum(kept.units().values()):
        return
    before = versions.current.model_dump(mode="json")
    for field, path in (("ship_to", "ship_to"), ("carrier_service", "service"), ("promise_by", "promise_by")):
        if changed[field] != before[field]:
            yield Problem(
                path=path,
                code="everything_left",
                message="cannot be changed any more: every unit is packed or on its way. Cancel the order to have "
                "the parcels brought back",
            )


def _units_left(lines: Sequence[DraftLine], kept: Kept) -> int:
    return sum(line.quantity for line in lines) - sum(kept.units().values())


def units_left(draft: OrderDraft, kept: Kept) -> int:
    """Units of ``draft`` that are to be planned beside what is kept."""
    return _units_left(draft.lines, kept)


# --- the preview ---
def _differences(before: OrderDraft, after: OrderDraft) -> tuple[LineDifference, ...]:
    """Every line of either document, also one that stays as it is."""
    earlier = {line.line_id: line for line in before.lines}
    later = {line.line_id: line for line in after.lines}
    gone = [line for line in before.lines if line.line_id not in later]
    return tuple(
        LineDifference(
            line_id=line.line_id,
            sku=line.sku,
            units_before=_units(earlier.get(line.line_id)),
            units_after=_units(later.get(line.line_id)),
            amount_before=Money(minor=_amount(earlier.get(line.line_id)), currency=before.currency),
            amount_after=Money(minor=_amount(later.get(line.line_id)), currency=before.currency),
        )
        for line in (*after.lines, *gone)
    )


def _units(line: DraftLine | None) -> int:
    return 0 if line is None else line.quantity


def _amount(line: DraftLine | None) -> int:
    return 0 if line is None else line.quantity * line.unit_price_minor
