"""What a business's price list does to its orders: how they are assessed, and what amendments of them cost."""

from typing import Any

import pytest

from activities.classify import ClassifyActivities
from activities.orders import OrderActivities
from activities.store import amendments, prices
from activities.store.amendments import Proposal
from activities.store.store import Store
from models.amendment import AmendmentPreview, AmendmentRequest, LineChange
from models.effects import AssessOrder, RiskAssessment, RiskDecision
from models.order import CustomerType, DraftLine, OrderDraft
from models.prices import AssigneeKind, PriceListDocument
from tests.activities.running import run
from tests.activities.test_amending import applying, asking, in_force, proposed, refused
from tests.builders import a_draft, accepted, gbp, new_number, order_id_of, stocked

BREAKS = ((1, 500), (10, 450), (100, 400))


async def a_business(store: Store, *, quantity: int = 2, price: int = 500, **changes: Any) -> OrderDraft:
    """An accepted order of one line whose customer has a list: the line's SKU, and ``X``, which costs 70 from 5 on."""
    draft = a_draft(quantity=quantity, price=price, customer_type=CustomerType.B2B)
    customer = f"customer-{new_number()}"
    draft = draft.model_copy(
        update={"customer": draft.customer.model_copy(update={"customer_ref": customer})} | changes
    )
    await load(store, draft, f"list-{customer}")
    async with store.transaction() as session:
        await prices.assign(session, f"list-{customer}", AssigneeKind.CUSTOMER, customer, actor="dana")
    await accepted(store, draft)
    await stocked(store, north={draft.lines[0].sku: 1_000, "X": 1_000})
    return draft


async def load(store: Store, draft: OrderDraft, list_id: str, *, less: int = 0) -> None:
    listed = [(draft.lines[0].sku, least, price - less) for least, price in BREAKS] + [("X", 5, 70)]
    document = PriceListDocument.model_validate(
        {
            "list_id": list_id,
            "name": "Trade",
            "currency": "GBP",
            "valid_from": "2026-01-01T00:00:00Z",
            "prices": [
                {"sku": sku, "min_quantity": least, "unit_price_minor": price} for sku, least, price in listed
            ],
        }
    )
    async with store.transaction() as session:
        await prices.load(session, document, actor="dana")


def list_of(draft: OrderDraft) -> str:
    return f"list-{draft.customer.customer_ref}"


async def assessed(store: Store, draft: OrderDraft) -> RiskAssessment:
    effect = AssessOrder(order_id=order_id_of(draft))
    answer: RiskAssessment = await run(ClassifyActivities(store).assess_order, effect)
    return answer


async def shown(store: Store, draft: OrderDraft, request: AmendmentRequest) -> AmendmentPreview:
    async with store.transaction() as session:
        found = await amendments.previewed(session, order_id_of(draft), request)
    assert isinstance(found, AmendmentPreview), found
    return found


async def put_in_force(store: Store, proposal: Proposal) -> tuple[DraftLine, ...]:
    """The lines of the document that an amendment makes."""
    answer = await run(OrderActivities(store).apply_amendment, applying(proposal))
    assert answer.refusal is None, answer.refusal
    return (await in_force(store, proposal.view.order_id))[1].lines


def units(draft: OrderDraft, quantity: int, price: int | None = None) -> AmendmentRequest:
    return asking(LineChange(line_id=draft.lines[0].line_id, quantity=quantity, unit_price_minor=price))


# --- assessing ---
async def test_an_order_at_the_lists_prices_passes(store: Store) -> None:
    for quantity, price in ((9, 500), (10, 450), (99, 450)):
        found = await assessed(store, await a_business(store, quantity=quantity, price=price))
        assert (found.decision, found.flags) == (RiskDecision.PASS, ())


async def test_an_order_at_other_prices_is_for_a_person_to_see(store: Store) -> None:
    draft = await a_business(store, quantity=10, price=500)
    found = await assessed(store, draft)
    assert found.decision is RiskDecision.REVIEW
    assert [flag.code for flag in found.flags] == ["price_differs"]
    assert f"price list {list_of(draft)} (version 1) says 4.50 GBP from 10 units on" in found.flags[0].reason
    assert found.recommendation is not None
    assert "5.00 GBP too much" in found.recommendation


async def test_consumers_and_businesses_without_a_list_are_assessed_as_ever(store: Store) -> None:
    listed = await a_business(store)
    consumer = listed.model_copy(update={"external_id": new_number(), "customer_type": CustomerType.B2C})
    stranger = a_draft(price=1, customer_type=CustomerType.B2B)
    for draft in (consumer, stranger):
        await accepted(store, draft)
        found = await assessed(store, draft)
        assert (found.flags, found.policy_version) == ((), "risk-2026-11-1")


async def test_a_corrected_list_counts_for_orders_that_are_assessed_from_then_on(store: Store) -> None:
    draft = await a_business(store)
    assert (await assessed(store, draft)).decision is RiskDecision.PASS
    await load(store, draft, list_of(draft), less=50)
    found = await assessed(store, draft)
    assert "(version 2)" in found.flags[0].reason


# --- amending ---
@pytest.mark.parametrize(("quantity", "price"), [(9, 500), (10, 450), (99, 450), (100, 400)])
async def test_another_quantity_costs_what_the_list_says_for_it(
    store: Store, quantity: int, price: int
) -> None:
    draft = await a_business(store)
    preview = await shown(store, draft, units(draft, quantity))
    assert preview.lines[0].amount_after == gbp(quantity * price)
    assert preview.total_after == gbp(quantity * price + 395)
    said = [note for note in preview.notes if list_of(draft) in note]
    assert bool(said) is (price != 500)
    [line] = await put_in_force(store, await proposed(store, order_id_of(draft), units(draft, quantity)))
    assert (line.quantity, line.unit_price_minor) == (quantity, price)
    assert (await assessed(store, draft)).flags == ()


async def test_a_line_that_is_added_costs_what_the_list_says(store: Store) -> None:
    draft = await a_business(store)
    request = asking(LineChange(sku="X", quantity=5))
    preview = await shown(store, draft, request)
    assert preview.difference == gbp(350)
    assert f"X costs 0.70 GBP from 5 units on, by price list {list_of(draft)} (version 1)" in preview.notes
    lines = await put_in_force(store, await proposed(store, order_id_of(draft), request))
    assert [(line.sku, line.unit_price_minor) for line in lines][1:] == [("X", 70)]


async def test_a_price_in_the_amendment_counts_before_the_list(store: Store) -> None:
    draft = await a_business(store)
    preview = await shown(store, draft, units(draft, 10, 480))
    assert preview.lines[0].amount_after == gbp(4_800)
    assert not preview.notes


async def test_what_the_list_does_not_have_is_not_guessed(store: Store) -> None:
    draft = await a_business(store)
    order_id = order_id_of(draft)
    for change in (LineChange(sku="Y", quantity=5), LineChange(sku="X", quantity=4)):
        assert await refused(store, order_id, asking(change)) == {
            "lines[0].unit_price_minor": "price_not_listed"
        }
    assert await refused(
        store, order_id, asking(LineChange(sku="X", quantity=4), LineChange(line_id="no", quantity=1))
    ) == {"lines[0].unit_price_minor": "price_not_listed", "lines[1]": "unknown_line"}


async def test_a_line_with_a_price_of_its_own_keeps_it_and_says_so(store: Store) -> None:
    draft = await a_business(store, price=480)
    preview = await shown(store, draft, units(draft, 10))
    assert preview.lines[0].amount_after == gbp(4_800)
    [note] = preview.notes
    assert note.startswith("line 1 keeps its price of 4.80 GBP: ")
    assert "costs 4.50 GBP from 10 units on" in note


async def test_the_quantity_that_the_order_came_in_with_has_the_price_that_it_came_in_with(
    store: Store,
) -> None:
    # A penny off the list, within tolerance: as the list counts, and comes back as it was.
    draft = await a_business(store, price=501)
    order_id = order_id_of(draft)
    [line] = await put_in_force(store, await proposed(store, order_id, units(draft, 10)))
    assert line.unit_price_minor == 450
    [line] = await put_in_force(store, await proposed(store, order_id, units(draft, 2)))
    assert line == draft.lines[0]


async def test_what_was_shown_is_what_is_applied_whatever_is_loaded_meanwhile(store: Store) -> None:
    draft = await a_business(store)
    request = units(draft, 10)
    proposal = await proposed(store, order_id_of(draft), request)
    await load(store, draft, list_of(draft), less=50)
    # Asked again it is the same amendment, and not another one under the same id.
    again = await proposed(store, order_id_of(draft), request)
    assert (again.repeated, again.view.preview) == (True, proposal.view.preview)
    [line] = await put_in_force(store, proposal)
    assert line.unit_price_minor == 450


async def test_an_order_without_a_list_is_amended_as_ever(store: Store) -> None:
    draft = a_draft()
    await accepted(store, draft)
    await stocked(store, north={draft.lines[0].sku: 10})
    preview = await shown(store, draft, units(draft, 10))
    assert (preview.lines[0].amount_after, preview.notes) == (gbp(5_000), ())
    assert await refused(store, order_id_of(draft), asking(LineChange(sku="X", quantity=5))) == {
        "lines[0].unit_price_minor": "price_missing"
    }


async def test_a_list_of_another_currency_prices_nothing_and_says_so(store: Store) -> None:
    draft = await a_business(store, currency="EUR")
    preview = await shown(store, draft, units(draft, 10))
    assert preview.lines[0].amount_after.minor == 5_000
    assert preview.notes == (f"price list {list_of(draft)} is in GBP, the order in EUR",)
    found = await assessed(store, draft)
    assert [flag.code for flag in found.flags] == ["price_list_currency"]
