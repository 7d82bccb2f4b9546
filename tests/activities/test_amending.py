"""Amendments as the order's run applies them, and what every reader of the document makes of it then."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from activities.inventory import InventoryActivities
from activities.orders import OrderActivities
from activities.payments import PaymentActivities
from activities.routing import RoutingActivities
from activities.store import accounts, amendments, reads
from activities.store.amendments import Proposal
from activities.store.broken import close_order
from activities.store.intake import stored_draft
from activities.store.plans import planned_draft
from activities.store.store import Store
from models.amendment import AmendmentPreview, AmendmentRequest, AmendmentState, AmendmentView, LineChange
from models.effects import (
    AmendmentApplied,
    ApplyAmendment,
    AuthorisePayment,
    KeptShipment,
    Reservation,
    ReserveStock,
    RouteOrder,
)
from models.errors import Conflict, NotFound, Problem
from models.journal import Carried
from models.money import Money
from models.order import Address, OrderDraft, Tender, TenderKind
from models.plan import PlanSummary
from models.states import OrderState, ShipmentState
from policies.amendment import REST_CODE
from tests.activities.conftest import Street
from tests.activities.running import failure_of, run
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accepted,
    an_entry,
    carrying,
    gbp,
    new_number,
    order_id_of,
    skus_of,
    stocked,
    write_down,
)

ELSEWHERE = Address(lines=("2 New Road",), city="Dublin", country="IE")


@pytest.fixture
def orders(store: Store) -> OrderActivities:
    return OrderActivities(store)


def asking(*lines: LineChange, **changes: Any) -> AmendmentRequest:
    values = {"request_id": f"r-{new_number()}", "actor": "dana", "reason": "the customer rang"}
    return AmendmentRequest(lines=lines, **(values | changes))


def to_units(draft: OrderDraft, *quantities: int) -> AmendmentRequest:
    """The request for so many units of each line in turn."""
    return asking(
        *(
            LineChange(line_id=line.line_id, quantity=quantity)
            for line, quantity in zip(draft.lines, quantities, strict=False)
        )
    )


async def proposed(store: Store, order_id: str, request: AmendmentRequest) -> Proposal:
    async with store.transaction() as session:
        found = await amendments.propose(session, order_id, request)
    assert isinstance(found, Proposal), found
    return found


async def refused(store: Store, order_id: str, request: AmendmentRequest) -> dict[str, str]:
    async with store.transaction() as session:
        found = await amendments.propose(session, order_id, request)
    assert isinstance(found, tuple)
    return {problem.path: problem.code for problem in found}


def applying(proposal: Proposal, *kept: KeptShipment, amount: int = 0, **changes: Any) -> ApplyAmendment:
    effect = ApplyAmendment(
        order_id=proposal.view.order_id,
        amendment_id=proposal.view.amendment_id,
        kept=kept,
        kept_amount=gbp(amount),
    )
    return effect.model_copy(update=changes)


async def in_force(store: Store, order_id: str) -> tuple[int, OrderDraft]:
    async with store.transaction() as session:
        found = await stored_draft(session, order_id)
    return found.version, found.draft


async def listed(store: Store, order_id: str) -> list[AmendmentView]:
    async with store.transaction() as session:
        return list(await amendments.amendments(session, order_id))


async def planned(routing: RoutingActivities, order_id: str, attempt: int = 1, **changes: Any) -> PlanSummary:
    answer = await run(
        routing.route_order,
        RouteOrder(order_id=order_id, attempt=attempt, business_now=NOON).model_copy(update=changes),
    )
    assert answer.plan is not None, answer.unfillable
    return answer.plan


async def reserved(inventory: InventoryActivities, order_id: str, plan: PlanSummary) -> Reservation:
    return await run(
        inventory.reserve_stock,
        ReserveStock(
            order_id=order_id,
            plan_id=plan.plan_id,
            key=f"{plan.plan_id}:reserve",
            expires_at=datetime.now(UTC) + timedelta(days=1),
        ),
    )


async def shown(store: Store, order_id: str, request: AmendmentRequest) -> AmendmentPreview:
    async with store.transaction() as session:
        found = await amendments.previewed(session, order_id, request)
    assert isinstance(found, AmendmentPreview), found
    return found


async def begun(
    store: Store,
    order_id: str,
    plan: PlanSummary,
    state: ShipmentState,
    *numbers: int,
    version: int = 1,
) -> None:
    """The shipments ``numbers`` of ``plan`` have come to ``state``."""
    for ref in plan.shipments:
        if ref.number in numbers:
            shipment = a_shipment(
                order_id,
                ref.number,
                version=version,
                state=state,
                units=ref.units,
                amount=ref.amount,
                node=ref.node,
            )
            await write_down(store, order_id, Carried(shipment=shipment))


async def split_in_two(store: Store, routing: RoutingActivities) -> tuple[OrderDraft, PlanSummary]:
    """An order of two lines, 2 units each, planned from two nodes: each ships one line."""
    draft = a_draft(2)
    first, second = skus_of(draft)
    await stocked(store, north={first: 9}, south={second: 9})
    await accepted(store, draft)
    plan = await planned(routing, order_id_of(draft))
    assert [ref.number for ref in plan.shipments] == [1, 2]
    return draft, plan


# --- proposing ---
async def test_a_proposal_changes_nothing_yet(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    found = await proposed(store, order_id, to_units(draft, 1))
    assert (found.view.amendment_id, found.view.number) == (f"{order_id}:a2", 2)
    assert found.view.state is AmendmentState.PROPOSED
    assert found.total == gbp(1895)
    assert await in_force(store, order_id) == (1, draft)


async def test_the_same_request_again_is_the_same_amendment_and_another_under_its_id_a_conflict(
    store: Store,
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    request = to_units(draft, 1)
    first = await proposed(store, order_id, request)
    again = await proposed(store, order_id, request)
    assert (again.repeated, again.view) == (True, first.view)
    with pytest.raises(Conflict, match=request.request_id):
        await proposed(store, order_id, request.model_copy(update={"reason": "another"}))
    assert len(await listed(store, order_id)) == 1


async def test_one_request_sent_ten_times_at_once_is_one_amendment(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    request = to_units(draft, 1)
    found = await asyncio.gather(*(proposed(store, order_id, request) for _ in range(10)))
    assert {proposal.view.number for proposal in found} == {2}


async def test_requests_at_once_get_numbers_of_their_own(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    found = await asyncio.gather(
        *(proposed(store, order_id, to_units(draft, units)) for units in range(3, 11))
    )
    assert sorted(proposal.view.number for proposal in found) == list(range(2, 10))


async def test_a_preview_stores_nothing(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    async with store.transaction() as session:
        found = await amendments.previewed(session, order_id, to_units(draft, 3))
    assert not isinstance(found, tuple)
    assert found.difference == found.to_authorise - gbp(2395) == gbp(500)
    assert await listed(store, order_id) == []


async def test_an_order_that_ended_is_not_amended(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 1))
    assert await refused(store, order_id, to_units(draft, 1)) == {"": "order_ended"}


async def test_a_service_that_the_network_does_not_have_is_refused(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await stocked(store, north={})
    assert await refused(store, order_id, asking(service="islandpost/drone")) == {
        "service": "unknown_service"
    }
    await proposed(store, order_id, asking(service="islandpost/tracked48"))


async def test_the_preview_says_what_goes_on_and_what_is_planned_anew(
    store: Store, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    await begun(store, order_id, plan, ShipmentState.LABELLED, 1)
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 2)
    assert await refused(store, order_id, to_units(draft, 1)) == {"lines": "below_shipped"}
    found = await proposed(store, order_id, to_units(draft, 2, 5).model_copy(update={"ship_to": ELSEWHERE}))
    shown = found.view.preview
    assert shown.kept == plan.shipments[0].amount
    assert shown.address_changes
    assert [note.partition(":")[0] for note in shown.notes] == [
        "shipment 1 is labelled and goes on as it is",
        "shipment 2 is not picked yet",
        "the new address is for what is not packed yet, and for nothing else",
    ]


async def test_the_preview_says_which_of_the_units_asked_for_are_not_there(
    store: Store, routing: RoutingActivities, inventory: InventoryActivities
) -> None:
    draft = a_draft(quantity=3)
    order_id = await accepted(store, draft)
    (sku,) = skus_of(draft)
    await stocked(store, north={sku: 5})
    plan = await planned(routing, order_id)
    assert (await reserved(inventory, order_id, plan)).reserved
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 1)
    # What the order holds itself it can be planned with again.
    assert not any("not there" in note for note in (await shown(store, order_id, to_units(draft, 5))).notes)
    assert (
        f"1 of 6 {sku} is not there now: the order would wait"
        in (await shown(store, order_id, to_units(draft, 6))).notes
    )
    assert not any("not there" in note for note in (await shown(store, order_id, to_units(draft, 1))).notes)
    # Packed, it goes on with its three, and the other two are there for the rest.
    await begun(store, order_id, plan, ShipmentState.LABELLED, 1, version=2)
    assert (
        f"1 of 3 {sku} is not there now: the order would wait"
        in (await shown(store, order_id, to_units(draft, 6))).notes
    )


async def test_a_sku_that_nobody_stocks_is_refused(store: Store) -> None:
    draft = a_draft()
    order_id = await accepted(store, draft)
    await stocked(store, north={skus_of(draft)[0]: 5})
    sku = f"NOBODYS-{new_number()}"
    request = asking(LineChange(sku=sku, quantity=1, unit_price_minor=100))
    assert await refused(store, order_id, request) == {"lines[0].sku": "unknown_sku"}
    async with store.transaction() as session:
        found = await amendments.previewed(session, order_id, request)
    assert isinstance(found, tuple)
    assert [problem.code for problem in found] == ["unknown_sku"]
    await stocked(store, north={sku: 0})
    notes = (await proposed(store, order_id, request)).view.preview.notes
    assert f"1 of 1 {sku} is not there now: the order would wait" in notes


async def test_a_sku_that_nobody_stocks_any_more_when_it_is_applied_is_refused(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft()
    order_id = await accepted(store, draft)
    sku = f"NOBODYS-{new_number()}"
    await stocked(store, north={sku: 0})
    proposal = await proposed(store, order_id, asking(LineChange(sku=sku, quantity=1, unit_price_minor=100)))
    async with store.transaction() as session:
        await session.execute(text("DELETE FROM stock WHERE sku = :sku"), {"sku": sku})
    answer = await run(orders.apply_amendment, applying(proposal))
    assert answer.refusal is not None
    assert answer.refusal.code == "unknown_sku"
    assert await in_force(store, order_id) == (1, draft)


async def test_units_that_an_order_holds_are_its_own_while_it_is_planned_anew(
    store: Store, orders: OrderActivities, routing: RoutingActivities, inventory: InventoryActivities
) -> None:
    whole = {"quantity": 5, "allow_partial": False}
    draft, other = a_draft(**whole), a_draft(**whole)
    order_id, (sku,) = await accepted(store, draft), skus_of(draft)
    await stocked(store, north={sku: 5})
    other = other.model_copy(
        update={"lines": tuple(line.model_copy(update={"sku": sku}) for line in other.lines)}
    )
    other_id = await accepted(store, other)
    plan = await planned(routing, order_id)
    assert (await reserved(inventory, order_id, plan)).reserved
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 1)
    # One too many: its shipment stops and leaves its units to the order, which then waits with them.
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 6))))
    await begun(store, order_id, plan, ShipmentState.CANCELLED, 1, version=2)
    anew = RouteOrder(order_id=order_id, attempt=2, business_now=NOON, first_number=2)
    assert (await run(routing.route_order, anew)).plan is None
    theirs = await run(routing.route_order, RouteOrder(order_id=other_id, attempt=1, business_now=NOON))
    assert theirs.plan is None
    # Back to five: they are there for it, and reserving swaps the old claim for the new one.
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 5))))
    again = await planned(routing, order_id, 3, first_number=2)
    assert (await reserved(inventory, order_id, again)).reserved
    async with store.transaction() as session:
        held = await session.execute(
            text("SELECT shipment_id, quantity FROM reserved_units WHERE sku = :sku AND state = 'held'"),
            {"sku": sku},
        )
        assert [tuple(row) for row in held] == [(f"{order_id}:2", 5)]


# --- applying ---
async def test_an_applied_amendment_is_what_everybody_reads(store: Store, orders: OrderActivities) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    request = to_units(draft, 0, 3).model_copy(update={"ship_to": ELSEWHERE})
    proposal = await proposed(store, order_id, request)
    answer = await run(orders.apply_amendment, applying(proposal))

    version, document = await in_force(store, order_id)
    assert (version, document.ship_to) == (2, ELSEWHERE)
    assert answer.facts is not None
    assert (answer.facts.total, answer.facts.unit_count, answer.units_left) == (gbp(1895), 3, 3)
    assert answer.facts.ship_country == "IE"
    async with store.transaction() as session:
        view = await reads.order(session, order_id)
        told = await reads.timeline(session, order_id)
    assert view is not None
    assert (view.document_version, view.document_hash) == (2, answer.facts.document_hash)
    assert (view.total, view.goods, view.line_count, view.unit_count) == (gbp(1895), gbp(1500), 1, 3)
    assert view.ship_country == "IE"
    assert [(line.line_id, line.quantity) for line in view.lines] == [("2", 3)]
    assert [(entry.kind, entry.actor, entry.why) for entry in told] == [
        ("order.amended", "dana", "the customer rang")
    ]
    assert "Dublin" not in told[0].model_dump_json()
    assert [found.state for found in await listed(store, order_id)] == [AmendmentState.APPLIED]


async def test_applying_twice_answers_the_same_and_writes_once(store: Store, orders: OrderActivities) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    effect = applying(await proposed(store, order_id, to_units(draft, 1)))
    answers = await asyncio.gather(*(run(orders.apply_amendment, effect) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    async with store.transaction() as session:
        assert len(await reads.timeline(session, order_id)) == 1


async def test_a_late_repeat_does_not_bring_an_older_version_back(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    older = applying(await proposed(store, order_id, to_units(draft, 1)))
    first = await run(orders.apply_amendment, older)
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 7))))
    assert await run(orders.apply_amendment, older) == first
    version, document = await in_force(store, order_id)
    assert (version, document.lines[0].quantity) == (3, 7)


async def test_of_two_amendments_of_one_version_the_second_is_stale(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    one = await proposed(store, order_id, to_units(draft, 1))
    other = await proposed(store, order_id, to_units(draft, 3))
    await run(orders.apply_amendment, applying(other))
    assert [found.state for found in await listed(store, order_id)] == [
        AmendmentState.REFUSED,
        AmendmentState.APPLIED,
    ]
    late = await run(orders.apply_amendment, applying(one))
    assert late.facts is None and late.refusal is not None
    assert late.refusal.code == "stale_version"
    assert (await in_force(store, order_id))[0] == 3


async def test_what_the_run_refuses_stays_refused_and_uses_its_number_up(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    proposal = await proposed(store, order_id, to_units(draft, 9))
    why = Problem(path="tenders", code="payment_declined", message="the difference was declined")
    for effect in (applying(proposal, refused=why), applying(proposal)):
        assert await run(orders.apply_amendment, effect) == AmendmentApplied(refusal=why)
    assert await in_force(store, order_id) == (1, draft)
    async with store.transaction() as session:
        told = await reads.timeline(session, order_id)
    assert [(entry.kind, entry.why) for entry in told] == [("order.amendment_refused", why.message)]
    assert (await proposed(store, order_id, to_units(draft, 3))).view.number == 3


async def test_a_refusal_that_comes_after_the_application_changes_nothing(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    proposal = await proposed(store, order_id, to_units(draft, 1))
    applied = await run(orders.apply_amendment, applying(proposal))
    why = Problem(path="", code="late", message="too late")
    assert await run(orders.apply_amendment, applying(proposal, refused=why)) == applied


async def test_an_order_that_ended_meanwhile_keeps_its_document(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    proposal = await proposed(store, order_id, to_units(draft, 1))
    await write_down(store, order_id, carrying(order_id, OrderState.CANCELLED, 1))
    answer = await run(orders.apply_amendment, applying(proposal))
    assert answer.refusal is not None
    assert answer.refusal.code == "order_ended"
    assert (await in_force(store, order_id))[0] == 1


async def test_what_still_waits_when_the_order_ends_is_refused(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    other_id = await accepted(store, other := a_draft(2))
    for order, document in ((order_id, draft), (other_id, other)):
        await proposed(store, order, to_units(document, 1))
    await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 1))
    (view,) = await listed(store, order_id)
    assert view.refusal is not None
    assert view.refusal.code == "order_ended"
    assert (await listed(store, other_id))[0].state is AmendmentState.PROPOSED


async def test_what_still_waits_when_the_order_is_closed_by_hand_is_refused(store: Store) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    await proposed(store, order_id, to_units(draft, 1))
    async with store.transaction() as session:
        await close_order(session, order_id, actor="dana", reason="its run is gone")
    assert [view.state for view in await listed(store, order_id)] == [AmendmentState.REFUSED]


async def test_an_amendment_that_nobody_proposed_is_not_applied(
    store: Store, orders: OrderActivities
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    other = await proposed(store, await accepted(store, again := a_draft(2)), to_units(again, 1))
    effect = applying(other, order_id=order_id)
    assert (await failure_of(orders.apply_amendment, effect)).type == NotFound.code


async def test_what_is_carried_is_written_with_it(store: Store, orders: OrderActivities) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    proposal = await proposed(store, order_id, to_units(draft, 1))
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    carried = Carried(entries=(an_entry(order_id, 7, kind="order.amending", at=an_hour_ago),))
    await run(orders.apply_amendment, applying(proposal, carried=carried))
    async with store.transaction() as session:
        told = await reads.timeline(session, order_id)
    assert [entry.kind for entry in told] == ["order.amending", "order.amended"]
    # The order's business clock went on for that hour.
    since = told[1].business_at - NOON
    assert timedelta(hours=1) <= since < timedelta(hours=2)


# --- beside what is kept ---
async def test_the_rest_is_planned_beside_what_is_kept(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    await begun(store, order_id, plan, ShipmentState.HANDED_OVER, 1)
    kept = KeptShipment(plan_id=plan.plan_id, number=1)
    kept_amount = plan.shipments[0].amount
    proposal = await proposed(store, order_id, to_units(draft, 3, 5))
    answer = await run(orders.apply_amendment, applying(proposal, kept, amount=kept_amount.minor))
    assert answer.facts is not None
    assert answer.units_left == 6
    rest = await planned(
        routing,
        order_id,
        2,
        kept=(kept,),
        first_number=3,
        outstanding=answer.facts.total - kept_amount,
    )
    assert [ref.number for ref in rest.shipments] == [3, 4]
    assert sum(ref.units for ref in rest.shipments) == 6
    assert kept_amount + Money.total((ref.amount for ref in rest.shipments), "GBP") == answer.facts.total


async def test_when_only_the_kept_is_left_the_total_is_what_it_takes(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    # Not packed when it is proposed, packed when it is applied.
    proposal = await proposed(store, order_id, to_units(draft, 2, 0))
    assert proposal.total == gbp(1395)
    kept_amount = plan.shipments[0].amount
    kept = KeptShipment(plan_id=plan.plan_id, number=1)
    answer = await run(orders.apply_amendment, applying(proposal, kept, amount=kept_amount.minor))
    assert answer.facts is not None
    assert (answer.facts.total, answer.units_left) == (kept_amount, 0)
    _, document = await in_force(store, order_id)
    assert document.charges[-1].code == REST_CODE
    (view,) = await listed(store, order_id)
    assert (view.preview.total_after, view.preview.kept) == (kept_amount, kept_amount)


async def test_units_that_were_packed_meanwhile_cannot_be_taken_out(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    proposal = await proposed(store, order_id_of(draft), to_units(draft, 2, 1))
    kept = KeptShipment(plan_id=plan.plan_id, number=2)
    answer = await run(
        orders.apply_amendment, applying(proposal, kept, amount=plan.shipments[1].amount.minor)
    )
    assert answer.refusal is not None
    assert answer.refusal.code == "below_shipped"
    assert await in_force(store, order_id_of(draft)) == (1, draft)


async def test_a_total_above_what_was_shown_is_never_put_in_force(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    await begun(store, order_id, plan, ShipmentState.PICKED, 1)
    # Shown as all that is left, so its total is what shipment 1 takes; then that one is called off all the same.
    proposal = await proposed(store, order_id, to_units(draft, 2, 0))
    assert proposal.total == plan.shipments[0].amount
    answer = await run(orders.apply_amendment, applying(proposal))
    assert answer.refusal is not None
    assert answer.refusal.code == "preview_outdated"


async def test_a_packed_parcel_goes_where_it_was_planned_to_go(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    request = asking(ship_to=draft.ship_to.model_copy(update={"city": "York"}))
    kept = KeptShipment(plan_id=plan.plan_id, number=1)
    kept_amount = plan.shipments[0].amount
    proposal = await proposed(store, order_id, request)
    await run(orders.apply_amendment, applying(proposal, kept, amount=kept_amount.minor))
    rest = await planned(
        routing, order_id, 2, kept=(kept,), first_number=3, outstanding=plan.shipments[1].amount
    )
    async with store.transaction() as session:
        before = await planned_draft(session, order_id, plan.plan_id)
        after = await planned_draft(session, order_id, rest.plan_id)
    assert (before.ship_to.city, after.ship_to.city) == ("Leeds", "York")


async def test_routing_refuses_what_does_not_fit_what_is_kept(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, plan = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    both = tuple(KeptShipment(plan_id=plan.plan_id, number=number) for number in (1, 2))
    again = RouteOrder(order_id=order_id, attempt=2, business_now=NOON, kept=both, first_number=3)
    assert "nothing is left" in str(await failure_of(routing.route_order, again))
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 1, 0))))
    assert "more units" in str(
        await failure_of(routing.route_order, again.model_copy(update={"kept": both[:1]}))
    )
    assert "not in the document" in str(
        await failure_of(routing.route_order, again.model_copy(update={"kept": both[1:]}))
    )


async def test_a_service_that_is_asked_for_is_what_is_planned_or_nothing(
    store: Store, orders: OrderActivities, routing: RoutingActivities
) -> None:
    draft, _ = await split_in_two(store, routing)
    order_id = order_id_of(draft)
    request = asking(service="islandpost/tracked48", ship_to=ELSEWHERE)
    await run(orders.apply_amendment, applying(await proposed(store, order_id, request)))
    answer = await run(routing.route_order, RouteOrder(order_id=order_id, attempt=2, business_now=NOON))
    assert answer.plan is None
    assert "only islandpost/tracked48 is asked for" in answer.unfillable[0]


# --- what the database itself refuses ---
@pytest.mark.parametrize("change", ["state = 'refused', refusal = '{}'", "base_version = 2", "number = 9"])
async def test_a_decided_amendment_cannot_be_changed(
    store: Store, orders: OrderActivities, change: str
) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 1))))
    with pytest.raises(DBAPIError, match="does not change any more"):
        async with store.transaction() as session:
            await session.execute(
                text(f"UPDATE order_amendments SET {change} WHERE order_id = :order_id"),
                {"order_id": order_id},
            )


async def test_no_two_versions_can_be_made_of_one(store: Store, orders: OrderActivities) -> None:
    draft = a_draft(2)
    order_id = await accepted(store, draft)
    await run(orders.apply_amendment, applying(await proposed(store, order_id, to_units(draft, 1))))
    await proposed(store, order_id, to_units(draft, 3))
    with pytest.raises(IntegrityError, match="uq_order_amendments_base"):
        async with store.transaction() as session:
            await session.execute(
                text(
                    "UPDATE order_amendments SET state = 'applied', decided_at = now(), base_version = 1 "
                    "WHERE order_id = :order_id AND state = 'proposed'"
                ),
                {"order_id": order_id},
            )


async def test_an_amendment_that_its_customers_account_does_not_pay_for_is_refused(store: Store) -> None:
    account = f"acme-{new_number()}"
    draft = a_draft()
    total = draft.totals.total_minor
    async with store.transaction() as session:
        await accounts.open_account(session, account, gbp(total + 500))
    draft = draft.model_copy(
        update={
            "tenders": (Tender(kind=TenderKind.ON_ACCOUNT, token=account, amount_minor=total),),
        }
    )
    order_id = await accepted(store, draft)
    assert await refused(store, order_id, to_units(draft, 4)) == {"tenders": "over_credit_limit"}
    assert await listed(store, order_id) == []
    found = await proposed(store, order_id, to_units(draft, 3))
    assert found.total == gbp(total + 500)
    # To want less is always possible, whatever became of the account.
    async with store.transaction() as session:
        await accounts.set_active(
            session, TenderKind.ON_ACCOUNT, account, active=False, actor="dana", reason="late"
        )
    await proposed(store, order_id, to_units(draft, 1))
    assert await refused(store, order_id, to_units(draft, 3)) == {"tenders": "tender_inactive"}


async def test_what_a_packed_parcel_is_paid_from_does_not_pay_for_more(
    store: Store, routing: RoutingActivities, street: Street
) -> None:
    payments = PaymentActivities(store, street.near.payments)
    account = f"acme-{new_number()}"
    draft = a_draft()
    total = draft.totals.total_minor
    async with store.transaction() as session:
        await accounts.open_account(session, account, gbp(total + 500))
    draft = draft.model_copy(
        update={
            "tenders": (Tender(kind=TenderKind.ON_ACCOUNT, token=account, amount_minor=total),),
        }
    )
    order_id = await accepted(store, draft)
    await stocked(store, north={skus_of(draft)[0]: 9})
    held = AuthorisePayment(order_id=order_id, amount=gbp(total), key=f"order:{order_id}:authorise:1")
    assert (await run(payments.authorise_payment, held)).approved
    plan = await planned(routing, order_id)
    await begun(store, order_id, plan, ShipmentState.LABELLED, 1)
    assert await refused(store, order_id, to_units(draft, 4)) == {"tenders": "over_credit_limit"}
    found = await proposed(store, order_id, to_units(draft, 3))
    assert found.view.preview.to_authorise == gbp(500)
