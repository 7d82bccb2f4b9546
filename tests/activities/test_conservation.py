"""Nothing is lost and nothing comes about, whatever an order goes through.

A state machine plays the run of an order: edits, plans, reservations, releases, picks, hand-overs with their captures,
shipments called off, refunds, and late repeats of anything before. It asks the real activities, on a real database and
the real simulators. After every step stock, movements, reservations, documents and payments have to agree with each
other and with what was done; at the end the books close, and the payment provider's statement says the same.

``pytest tests/activities/test_conservation.py --hypothesis-profile long`` plays a thousand orders instead of fifty.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from temporalio.exceptions import ApplicationError

from activities.adapters.neighbours import open_neighbours
from activities.inventory import InventoryActivities
from activities.orders import OrderActivities
from activities.payments import PaymentActivities
from activities.routing import RoutingActivities
from activities.shipping import ShippingActivities
from activities.store import amendments, ledger, reads, stock_books
from activities.store.amendments import Proposal
from activities.store.intake import stored_draft
from activities.store.network import StockLevel, seed_stock
from activities.store.plans import stored_plan
from activities.store.store import Store
from models.amendment import AmendmentRequest, LineChange
from models.base import Contract
from models.effects import (
    ApplyAmendment,
    AuthorisePayment,
    BuyLabel,
    CancelPick,
    CapturePayment,
    KeptShipment,
    RefundPayment,
    ReleaseReservation,
    RequestPick,
    ReserveStock,
    RouteOrder,
    SettleOrder,
    ValidateOrder,
    VoidAuthorisation,
)
from models.identifiers import order_workflow_id, shipment_id
from models.journal import Carried
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import Address, ChargeKind, DraftCharge, OrderDraft
from models.plan import PlannedLine, PlanSummary, ShipmentRef
from models.states import OrderState, ShipmentState
from policies.amendment import NOT_NOW
from policies.intake import check_draft
from policies.routing.router import CheapestNodeRouter
from tests.activities.running import run
from tests.apps.simulators.running import Simulator, ask
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accepted,
    carrying,
    gbp,
    new_number,
    order_id_of,
    stocked,
    write_down,
)

QUICK, LONG = 50, 1_000

Effect = TypeVar("Effect", bound=Contract)
Answer = TypeVar("Answer", bound=Contract)
ON_HAND = 12


@dataclass
class World:
    """One database, one set of neighbours, and the activities between them."""

    runner: asyncio.Runner
    store: Store
    simulators: dict[str, Simulator]
    orders: OrderActivities
    routing: RoutingActivities
    inventory: InventoryActivities
    payments: PaymentActivities
    shipping: ShippingActivities


@dataclass
class Hold:
    """Money that the provider holds, and what shipments have been told to take from it."""

    key: str
    authorisation_id: str
    amount: Money
    given_back: bool = False


@dataclass
class Parcel:
    """A shipment that was started."""

    ref: ShipmentRef
    plan_id: str
    reservation_key: str
    hold: Hold
    lines: tuple[PlannedLine, ...]
    state: ShipmentState = ShipmentState.PICK_REQUESTED
    captured: Money | None = None
    capture_id: str = ""
    refunds: int = 0
    refunded: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether it is packed or gone."""
        return self.state in (ShipmentState.PICKED, ShipmentState.HANDED_OVER, ShipmentState.DELIVERED)

    @property
    def lives(self) -> bool:
        return self.state is not ShipmentState.CANCELLED

    @property
    def left(self) -> bool:
        return self.captured is not None


class OrderUnderWay(RuleBasedStateMachine):
    """One order, and what should have become of its units and its money."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.order_id = ""
        self.version, self.attempt, self.holds_asked, self.writes = 1, 0, 0, 0
        self.parcels: dict[int, Parcel] = {}
        self.hold: Hold | None = None
        self.holds: list[Hold] = []
        self.closed = False
        self.plan: PlanSummary | None = None
        self.planned: dict[int, tuple[PlannedLine, ...]] = {}
        self.units, self.total = 0, gbp(0)
        self.quantities: dict[str, int] = {}
        self.reservation_key = ""
        # What the order holds of plans before, until the next one has reserved: what to release, and the units.
        self.aside: list[tuple[ReleaseReservation, Counter[tuple[str, str, str]]]] = []
        self.done: list[tuple[Callable[[Any], Awaitable[Any]], Any, Any]] = []

    # --- the order's life ---
    @initialize(
        quantities=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        price=st.integers(1, 999),
        postage=st.integers(0, 499),
    )
    def comes_in(self, quantities: list[int], price: int, postage: int) -> None:
        number = new_number()
        lines: list[dict[str, Any]] = [
            {
                "line_id": str(at),
                "sku": f"{number}-S{at}",
                "quantity": units,
                "unit_price_minor": price * at,
            }
            for at, units in enumerate(quantities, start=1)
        ]
        goods = sum(line["quantity"] * line["unit_price_minor"] for line in lines)
        charges = [
            {"code": "POST", "kind": "shipping", "amount_minor": postage},
            {"code": "SALE", "kind": "discount", "amount_minor": -(goods // 10)},
            {"code": "VAT", "kind": "tax", "amount_minor": goods // 5},
        ]
        extra = postage - goods // 10 + goods // 5
        document = a_draft().model_dump() | {
            "external_id": number,
            "lines": lines,
            "charges": charges,
            "totals": {"lines_minor": goods, "charges_minor": extra, "total_minor": goods + extra},
            "tenders": [{"token": "tok_visa", "amount_minor": goods + extra}],
        }
        draft = OrderDraft.model_validate(document)
        self.order_id = order_id_of(draft)
        self.skus = [*(f"{number}-S{at}" for at in (1, 2, 3)), f"{number}-NEW"]
        # Where each SKU lies makes some orders ship from two nodes.
        self.stock = {
            ("north", self.skus[0]): ON_HAND,
            ("south", self.skus[1]): ON_HAND,
            ("north", self.skus[2]): 2,
            ("south", self.skus[2]): ON_HAND - 2,
            ("south", self.skus[3]): ON_HAND,
        }
        self._run(self._seeded(draft))
        self.units, self.total = sum(quantities), gbp(goods + extra)
        self.quantities = {line["sku"]: line["quantity"] for line in lines} | {self.skus[-1]: 0}
        # Not with what comes a second time: a run that is reset is told of the version in force.
        self._run(
            run(
                self.world.orders.validate_order,
                ValidateOrder(order_id=self.order_id, workflow_id=order_workflow_id(self.order_id)),
            )
        )

    @rule(
        differences=st.dictionaries(st.integers(0, 3), st.integers(-2, 3), min_size=1, max_size=3),
        postage=st.none() | st.none() | st.integers(0, 499),
        moves=st.sampled_from([False, False, True]),
    )
    def is_edited(self, differences: dict[int, int], postage: int | None, moves: bool) -> None:
        number = new_number()
        request = AmendmentRequest(
            request_id=f"r-{number}",
            actor="dana",
            reason="the customer rang",
            lines=tuple(
                LineChange(
                    sku=sku,
                    quantity=max(self.quantities[sku] + differences[at], 0),
                    unit_price_minor=777 if sku == self.skus[-1] else None,
                )
                for at, sku in enumerate(self.quantities)
                if self.quantities[sku] or differences.get(at, 0) > 0
                if at in differences
            ),
            charges=None
            if postage is None
            else (DraftCharge(code="POST", kind=ChargeKind.SHIPPING, amount_minor=postage),),
            ship_to=Address(lines=(f"{number} Road",), city="York", country="GB") if moves else None,
        )
        before = self._books()
        proposal = self._run(self._proposed(request))
        assert self._books() == before, "a proposal moves nothing"
        if not isinstance(proposal, Proposal):
            return
        # As the run does it: what is not packed is stopped, what is goes on, and money is held before it is applied.
        for parcel in [parcel for parcel in self._live() if not parcel.goes_on]:
            self._stop(parcel)
        self._set_plan_aside()
        kept = self._live()
        event("edited beside parcels that go on" if kept else "edited as a whole")
        self._hold_enough(proposal.total - self._amount(kept))
        answer = self._do(
            self.world.orders.apply_amendment,
            ApplyAmendment(
                order_id=self.order_id,
                amendment_id=proposal.view.amendment_id,
                kept=self._kept(kept),
                kept_amount=self._amount(kept),
            ),
        )
        assert answer.facts is not None, f"what was shown can be done: {answer.refusal}"
        assert not answer.facts.total.minor > proposal.total.minor
        assert answer.units_left == answer.facts.unit_count - sum(parcel.ref.units for parcel in kept)
        self.version = proposal.view.number
        self.units, self.total = answer.facts.unit_count, answer.facts.total
        self.quantities |= {change.sku: change.quantity for change in request.lines if change.sku}
        if answer.units_left == 0:
            self._free_aside()

    @rule(choices=st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def goes_on(self, choices: list[int]) -> None:
        """Some steps towards the customer; were each a rule of its own, few orders would ever ship."""
        for choice in choices:
            steps: list[Callable[[], None]] = []
            if self.plan is not None:
                steps.append(self._release)
            elif self._units_left() > 0:
                steps.append(self._plan_and_reserve)
            for parcel in self.parcels.values():
                if parcel.state is ShipmentState.PICK_REQUESTED:
                    steps.append(partial(self._pack, parcel))
                elif parcel.state is ShipmentState.PICKED:
                    steps.append(partial(self._hand_over, parcel))
            if not steps:
                return
            steps[choice % len(steps)]()

    def _plan_and_reserve(self) -> None:
        live = self._live()
        outstanding = self.total - self._amount(live)
        self._hold_enough(outstanding)
        self.attempt += 1
        answer = self._do(
            self.world.routing.route_order,
            RouteOrder(
                order_id=self.order_id,
                attempt=self.attempt,
                business_now=NOON,
                kept=self._kept(live),
                first_number=max(self.parcels, default=0) + 1,
                outstanding=outstanding if live else None,
            ),
        )
        if answer.plan is None:
            return
        planned = Money.total((ref.amount for ref in answer.plan.shipments), "GBP")
        # What is left out of a part that goes ahead keeps its share.
        assert planned <= outstanding if answer.plan.left_out else planned == outstanding
        key = f"{order_workflow_id(self.order_id)}:reserve:{self.attempt}"
        reservation = self._do(
            self.world.inventory.reserve_stock,
            ReserveStock(
                order_id=self.order_id,
                plan_id=answer.plan.plan_id,
                key=key,
                expires_at=datetime.now(UTC) + timedelta(days=1),
                carried=self._at(OrderState.RESERVING, plan_id=answer.plan.plan_id),
            ),
        )
        assert reservation.reserved, "nobody else wants these goods"
        self.plan, self.reservation_key = answer.plan, key
        if self.aside:
            event("swapped what was held for what is planned anew")
        self.aside.clear()
        self.planned = self._run(self._planned_lines(answer.plan))

    def _release(self) -> None:
        assert self.plan is not None
        assert self.hold is not None
        for ref in self.plan.shipments:
            parcel = Parcel(
                ref=ref,
                plan_id=self.plan.plan_id,
                reservation_key=self.reservation_key,
                hold=self.hold,
                lines=self.planned[ref.number],
            )
            self.parcels[ref.number] = parcel
            self._do(
                self.world.shipping.request_pick,
                RequestPick(
                    order_id=self.order_id,
                    shipment_id=self._id(parcel),
                    plan_id=parcel.plan_id,
                    number=ref.number,
                    business_now=NOON,
                    key=f"{self._id(parcel)}:pick",
                    carried=self._shipment(parcel),
                ),
            )
        self.plan = None

    def _pack(self, parcel: Parcel) -> None:
        parcel.state = ShipmentState.PICKED
        self._run(self._written(parcel))

    def _hand_over(self, parcel: Parcel) -> None:
        self._do(
            self.world.shipping.buy_label,
            BuyLabel(
                order_id=self.order_id,
                shipment_id=self._id(parcel),
                plan_id=parcel.plan_id,
                number=parcel.ref.number,
                business_now=NOON,
                key=f"{self._id(parcel)}:label",
            ),
        )
        parcel.state = ShipmentState.HANDED_OVER
        answer = self._do(
            self.world.payments.capture_payment,
            CapturePayment(
                order_id=self.order_id,
                shipment_id=self._id(parcel),
                authorisation_id=parcel.hold.authorisation_id,
                amount=parcel.ref.amount,
                key=f"{self._id(parcel)}:capture",
                carried=self._shipment(parcel),
            ),
        )
        parcel.captured, parcel.capture_id = answer.amount, answer.capture_id

    @precondition(lambda self: self._in(ShipmentState.PICK_REQUESTED, ShipmentState.PICKED))
    @rule(which=st.integers(0, 9))
    def a_shipment_is_called_off(self, which: int) -> None:
        self._call_off(self._one(which, ShipmentState.PICK_REQUESTED, ShipmentState.PICKED))

    @precondition(lambda self: self._in(ShipmentState.HANDED_OVER))
    @rule(which=st.integers(0, 9), part=st.integers(1, 100))
    def a_part_is_paid_back(self, which: int, part: int) -> None:
        parcel = self._one(which, ShipmentState.HANDED_OVER)
        assert parcel.captured is not None
        left = parcel.captured.minor - parcel.refunded
        amount = left * part // 100
        if amount:
            self._refund(parcel, amount)
            parcel.refunded += amount
            left -= amount
        with pytest.raises(ApplicationError):
            self._refund(parcel, left + 1)

    @precondition(lambda self: bool(self.done))
    @rule(which=st.integers(0, 10_000))
    def something_comes_a_second_time(self, which: int) -> None:
        """From a worker that stood still: it changes nothing, and is answered as it was, or refused."""
        activity, effect, answer = self.done[which % len(self.done)]
        before = self._books()
        try:
            again = self._run(run(activity, effect))
        except ApplicationError:
            again = answer
        assert again == answer
        assert self._books() == before

    # --- what has to hold at all times ---
    @invariant()
    def the_books_agree(self) -> None:
        if not self.order_id:
            return
        books = self._run(self._read_books())
        assert books["levels"] == self._expected_levels()
        assert books["movements"] == books["levels"], "every row is the sum of its movements"
        assert books["held"] == self._expected_held()
        self._documents_agree()
        assert books["money"] == self._expected_money()

    def teardown(self) -> None:
        if self.order_id:
            self._close()

    def _documents_agree(self) -> None:
        order, draft, lines = self._run(self._documents())
        assert (order.document_version, order.unit_count, order.total) == (
            self.version,
            self.units,
            self.total,
        )
        assert check_draft(draft) == ()
        assert (order.total.minor, order.goods.minor) == (draft.totals.total_minor, draft.totals.lines_minor)
        assert lines == [
            (line.line_id, line.sku, line.quantity, line.unit_price_minor) for line in draft.lines
        ]
        wanted = {(line.line_id, line.sku): line.quantity for line in draft.lines}
        sent = Counter[tuple[str, str]]()
        for parcel in self._live():
            for line in parcel.lines:
                sent[(line.line_id, line.sku)] += line.quantity
        assert all(units <= wanted.get(line, 0) for line, units in sent.items())
        planned = () if self.plan is None else self.plan.shipments
        shares = self._amount(self._live()) + Money.total((ref.amount for ref in planned), "GBP")
        units = sum(sent.values()) + sum(ref.units for ref in planned)
        # What is planned as a whole is paid as a whole; a part takes no more than the whole.
        assert shares.minor <= order.total.minor
        if units == order.unit_count:
            assert shares == order.total

    def _expected_levels(self) -> dict[tuple[str, str], tuple[int, int]]:
        gone, held = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for parcel in self.parcels.values():
            for line in parcel.lines:
                if parcel.left:
                    gone[(parcel.ref.node, line.sku)] += line.quantity
        for (_, node, sku), units in self._expected_held().items():
            held[(node, sku)] += units
        return {row: (on_hand - gone[row], held[row]) for row, on_hand in self.stock.items()}

    def _expected_held(self) -> dict[tuple[str, str, str], int]:
        held = Counter[tuple[str, str, str]]()
        for parcel in self._live():
            for line in () if parcel.left else parcel.lines:
                held[(self._id(parcel), parcel.ref.node, line.sku)] += line.quantity
        held += self._held_by_plan()
        # Once it is closed nothing is held for it any more, whatever was.
        for _, units in () if self.closed else self.aside:
            held += units
        return dict(held)

    def _held_by_plan(self) -> Counter[tuple[str, str, str]]:
        held = Counter[tuple[str, str, str]]()
        if self.plan is not None:
            for number, lines in self.planned.items():
                node = next(ref.node for ref in self.plan.shipments if ref.number == number)
                for line in lines:
                    held[(shipment_id(self.order_id, number), node, line.sku)] += line.quantity
        return held

    def _expected_money(self) -> dict[str, Any]:
        parcels = [parcel for parcel in self.parcels.values() if parcel.captured]
        taken = {self._id(parcel): parcel.ref.amount.minor for parcel in parcels}
        return {
            "captured": sum(taken.values()),
            "refunded": sum(parcel.refunded for parcel in parcels),
            "held": 0 if self.closed else self._expected_hold(parcels),
            "unclear": 0,
            "asked_for": taken,
            "posted": {
                shipment: (minor, parcel.refunded)
                for parcel, (shipment, minor) in zip(parcels, taken.items(), strict=True)
            },
        }

    def _expected_hold(self, taken: list[Parcel]) -> int:
        held = sum(hold.amount.minor for hold in self.holds if not hold.given_back)
        return held - sum(parcel.ref.amount.minor for parcel in taken if not parcel.hold.given_back)

    # --- the end ---
    def _close(self) -> None:
        self._forget_plan()
        for parcel in [parcel for parcel in self._live() if not parcel.left]:
            self._call_off(parcel)
        for parcel in self._live():
            parcel.state = ShipmentState.DELIVERED
            self._run(self._written(parcel))
        settlement = self._do(
            self.world.payments.settle_order,
            SettleOrder(
                order_id=self.order_id,
                total=self.total,
                authorisation_key=self.hold.key if self.hold else None,
                key=f"{order_workflow_id(self.order_id)}:settle",
                closing=self._at(OrderState.CLOSED, closed_at=NOON),
            ),
        )
        assert settlement.balanced, settlement.explanation
        self.closed = True
        event(f"closed with {sum(parcel.left for parcel in self.parcels.values())} parcels")
        self.the_books_agree()
        assert all(reserved == 0 for _, reserved in self._books()["levels"].values())
        self._statement_agrees()

    def _statement_agrees(self) -> None:
        effects = [
            effect
            for effect in ask(self.world.simulators["payment"], "GET", "/statement").body["effects"]
            if effect["key"].startswith((order_workflow_id(self.order_id) + ":", f"{self.order_id}:"))
        ]
        taken = Counter[str]()
        for effect in effects:
            if effect["state"] in ("captured", "refunded"):
                taken[effect["kind"]] += effect["amount_minor"]
            assert (effect["kind"], effect["state"]) != ("authorisation", "open"), "it is held for ever"
        expected = self._expected_money()
        assert (taken["capture"], taken["refund"]) == (expected["captured"], expected["refunded"])
        assert len([effect for effect in effects if effect["kind"] == "authorisation"]) == self.holds_asked
        picks = ask(self.world.simulators["warehouse"], "GET", "/statement").body["effects"]
        accepted_picks = {
            effect["reference"]
            for effect in picks
            if effect["kind"] == "pick"
            and effect["state"] == "accepted"
            and effect["reference"].startswith(f"{self.order_id}:")
        }
        assert accepted_picks == {self._id(parcel) for parcel in self.parcels.values() if parcel.left}

    # --- what the run would do ---
    def _hold_enough(self, due: Money) -> None:
        if self.hold is not None and self._free(self.hold) >= due.minor:
            return
        before = self.hold
        self.holds_asked += 1
        key = f"{order_workflow_id(self.order_id)}:authorise:{self.holds_asked}"
        answer = self._do(
            self.world.payments.authorise_payment,
            AuthorisePayment(order_id=self.order_id, amount=due, key=key),
        )
        assert answer.approved
        assert answer.authorisation_id is not None
        self.hold = Hold(key=key, authorisation_id=answer.authorisation_id, amount=answer.amount)
        self.holds.append(self.hold)
        if before is not None and not any(
            parcel.hold is before and not parcel.left for parcel in self._live()
        ):
            before.given_back = True
            self._do(
                self.world.payments.void_authorisation,
                VoidAuthorisation(
                    order_id=self.order_id, authorisation_key=before.key, key=f"{before.key}:void"
                ),
            )

    def _free(self, hold: Hold) -> int:
        drawn = sum(parcel.ref.amount.minor for parcel in self._live() if parcel.hold is hold)
        return hold.amount.minor - drawn

    def _call_off(self, parcel: Parcel) -> None:
        self._call_pick_off(parcel)
        self._do(self.world.inventory.release_reservation, self._release_of(parcel))

    def _stop(self, parcel: Parcel) -> None:
        """Called off to be planned anew: its units stay reserved."""
        self._call_pick_off(parcel)
        self._run(self._written(parcel))
        held = Counter[tuple[str, str, str]]()
        for line in parcel.lines:
            held[(self._id(parcel), parcel.ref.node, line.sku)] += line.quantity
        self.aside.append((self._release_of(parcel), held))

    def _release_of(self, parcel: Parcel) -> ReleaseReservation:
        return ReleaseReservation(
            order_id=self.order_id,
            reservation_key=parcel.reservation_key,
            shipment_id=self._id(parcel),
            key=f"{self._id(parcel)}:release",
            carried=self._shipment(parcel),
        )

    def _free_aside(self) -> None:
        """Nothing is left to be planned: what is held for it is given back."""
        while self.aside:
            self._do(self.world.inventory.release_reservation, self.aside.pop()[0])

    def _call_pick_off(self, parcel: Parcel) -> None:
        undone = self._do(
            self.world.shipping.cancel_pick,
            CancelPick(
                order_id=self.order_id,
                shipment_id=self._id(parcel),
                pick_key=f"{self._id(parcel)}:pick",
                key=f"{self._id(parcel)}:cancel",
            ),
        )
        assert undone.undone
        parcel.state = ShipmentState.CANCELLED

    def _set_plan_aside(self) -> None:
        """Of a plan that was not released, everything stays reserved until the next one has reserved."""
        if self.plan is None:
            return
        self.aside.append((self._release_of_plan(), self._held_by_plan()))
        self.plan = None

    def _forget_plan(self) -> None:
        """Of a plan that was not released, everything is given back."""
        if self.plan is None:
            return
        self.plan = None
        self._do(self.world.inventory.release_reservation, self._release_of_plan())

    def _release_of_plan(self) -> ReleaseReservation:
        return ReleaseReservation(
            order_id=self.order_id,
            reservation_key=self.reservation_key,
            key=f"{self.reservation_key}:release",
        )

    def _refund(self, parcel: Parcel, minor: int) -> None:
        parcel.refunds += 1
        self._do(
            self.world.payments.refund_payment,
            RefundPayment(
                order_id=self.order_id,
                shipment_id=self._id(parcel),
                capture_id=parcel.capture_id,
                amount=gbp(minor),
                cause="goodwill",
                key=f"{self._id(parcel)}:refund:{parcel.refunds}",
            ),
        )

    # --- small things ---
    def _live(self) -> list[Parcel]:
        return [parcel for parcel in self.parcels.values() if parcel.lives]

    def _in(self, *states: ShipmentState) -> bool:
        return any(parcel.state in states for parcel in self.parcels.values())

    def _one(self, which: int, *states: ShipmentState) -> Parcel:
        found = [parcel for parcel in self.parcels.values() if parcel.state in states]
        return found[which % len(found)]

    def _kept(self, parcels: list[Parcel]) -> tuple[KeptShipment, ...]:
        return tuple(KeptShipment(plan_id=parcel.plan_id, number=parcel.ref.number) for parcel in parcels)

    def _amount(self, parcels: list[Parcel]) -> Money:
        return Money.total((parcel.ref.amount for parcel in parcels), "GBP")

    def _units_left(self) -> int:
        return self.units - sum(parcel.ref.units for parcel in self._live())

    def _id(self, parcel: Parcel) -> str:
        return shipment_id(self.order_id, parcel.ref.number)

    def _at(self, state: OrderState, **changes: Any) -> Carried:
        self.writes += 1
        return carrying(self.order_id, state, self.writes, **changes)

    def _shipment(self, parcel: Parcel) -> Carried:
        self.writes += 1
        gone = parcel.state in (ShipmentState.HANDED_OVER, ShipmentState.DELIVERED)
        return Carried(
            shipment=a_shipment(
                self.order_id,
                parcel.ref.number,
                version=self.writes,
                state=parcel.state,
                node=parcel.ref.node,
                units=parcel.ref.units,
                amount=parcel.ref.amount,
                handed_over_at=NOON if gone else None,
                delivered_at=NOON if parcel.state is ShipmentState.DELIVERED else None,
            )
        )

    def _do(self, activity: Callable[[Effect], Awaitable[Answer]], effect: Effect) -> Answer:
        answer: Answer = self._run(run(activity, effect))
        self.done.append((activity, effect, answer))
        return answer

    def _run(self, coroutine: Any) -> Any:
        return self.world.runner.run(coroutine)

    # --- the database ---
    async def _seeded(self, draft: OrderDraft) -> None:
        async with self.world.store.transaction() as session:
            await seed_stock(
                session,
                [StockLevel(node=node, sku=sku, on_hand=units) for (node, sku), units in self.stock.items()],
            )
        await accepted(self.world.store, draft)

    async def _proposed(self, request: AmendmentRequest) -> Proposal | None:
        async with self.world.store.transaction() as session:
            found = await amendments.propose(session, self.order_id, request)
        if isinstance(found, Proposal):
            return found
        known = NOT_NOW | {
            "nothing_changes",
            "nothing_left",
            "unknown_line",
            "price_missing",
            "not_an_order",
        }
        assert {problem.code for problem in found} <= known
        return None

    async def _written(self, parcel: Parcel) -> None:
        await write_down(self.world.store, self.order_id, self._shipment(parcel))

    async def _planned_lines(self, plan: PlanSummary) -> dict[int, tuple[PlannedLine, ...]]:
        async with self.world.store.transaction() as session:
            stored = await stored_plan(session, self.order_id, plan.plan_id)
        return {shipment.number: shipment.lines for shipment in stored.shipments}

    async def _documents(self) -> tuple[Any, OrderDraft, list[tuple[str, str, int, int]]]:
        async with self.world.store.transaction() as session:
            order = await reads.order(session, self.order_id)
            draft = (await stored_draft(session, self.order_id)).draft
        assert order is not None
        return (
            order,
            draft,
            [(line.line_id, line.sku, line.quantity, line.unit_price.minor) for line in order.lines],
        )

    def _books(self) -> dict[str, Any]:
        books: dict[str, Any] = self._run(self._read_books())
        return books

    async def _read_books(self) -> dict[str, Any]:
        skus = {"skus": self.skus}
        async with self.world.store.transaction() as session:
            levels = await session.execute(
                text("SELECT node, sku, on_hand, reserved FROM stock WHERE sku = ANY(:skus)"), skus
            )
            movements = await session.execute(
                text(
                    "SELECT node, sku, sum(on_hand)::bigint, sum(reserved)::bigint FROM stock_movements "
                    "WHERE sku = ANY(:skus) GROUP BY node, sku"
                ),
                skus,
            )
            held = await session.execute(
                text(
                    "SELECT shipment_id, node, sku, sum(quantity)::bigint FROM reserved_units "
                    "WHERE sku = ANY(:skus) AND state = 'held' GROUP BY 1, 2, 3"
                ),
                skus,
            )
            totals = await reads.money(session, self.order_id, "GBP")
            moved = await reads.payments(session, self.order_id)
            return {
                "levels": {(node, sku): (on_hand, reserved) for node, sku, on_hand, reserved in levels},
                "movements": {(node, sku): (on_hand, reserved) for node, sku, on_hand, reserved in movements},
                "held": {(shipment, node, sku): units for shipment, node, sku, units in held},
                "money": {
                    "captured": totals.captured.minor,
                    "refunded": totals.refunded.minor,
                    "held": totals.held.minor,
                    "unclear": totals.unclear,
                    "posted": {
                        shipment: (sums.captured, sums.refunded)
                        for shipment, sums in (await ledger.moved_by_shipment(session, self.order_id)).items()
                    },
                    "asked_for": {
                        movement.shipment_id: movement.amount.minor
                        for movement in moved
                        if movement.kind is PaymentKind.CAPTURE and movement.state is OperationState.CONFIRMED
                    },
                },
            }


async def _open(
    runner: asyncio.Runner, stack: AsyncExitStack, url: str, simulators: dict[str, Simulator]
) -> World:
    near = await stack.enter_async_context(
        open_neighbours(*(simulators[name].url for name in ("payment", "warehouse", "carrier", "messages")))
    )
    store = Store.at(url)
    stack.push_async_callback(store.close)
    await stocked(store, north={}, south={})
    return World(
        runner=runner,
        store=store,
        simulators=simulators,
        orders=OrderActivities(store),
        routing=RoutingActivities(store, CheapestNodeRouter()),
        inventory=InventoryActivities(store),
        payments=PaymentActivities(store, near.payments),
        shipping=ShippingActivities(store, near.warehouse, near.carrier),
    )


async def _add_up(store: Store) -> None:
    """Over all the orders: every row of stock and every account."""
    async with store.transaction() as session:
        assert (await ledger.trial_balance(session)).in_balance
    async with store.transaction() as session:
        stock = await stock_books.reconcile(session)
    assert (stock.differences, stock.held, stock.unexplained) == ((), 0, 0)
    assert stock.movements > 0


@pytest.mark.timeout(0)
def test_nothing_is_lost_whatever_an_order_goes_through(
    database_url: str, running_simulators: dict[str, Simulator]
) -> None:
    long = settings.get_current_profile_name() == "long"
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        world = runner.run(_open(runner, stack, database_url, running_simulators))
        try:
            run_state_machine_as_test(
                type("OrderUnderWayHere", (OrderUnderWay,), {"world": world}),
                settings=settings(
                    max_examples=LONG if long else QUICK,
                    stateful_step_count=12,
                    deadline=None,
                    # What takes seconds to play takes minutes to explain.
                    phases=set(Phase) - {Phase.explain},
                    suppress_health_check=list(HealthCheck),
                ),
            )
            runner.run(_add_up(world.store))
        finally:
            runner.run(stack.aclose())
