"""Every step against every trouble: real activities, simulators, database, API and engine, and workers that are killed.

One order plays each cell of the matrix, and all orders of a phase play at once: first those whose steps fail, lose
their answers, are done twice or are called off at a moment; then those whose worker is killed, all with one kill.
"""

import ast
import asyncio
import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any

import httpx
import pytest

from activities.store import warehouse
from activities.store.lost import told_of, untold_losses
from apps.simulators.faults import Fault, FaultKind, FaultScript
from models.identifiers import order_workflow_id
from models.messages import CancelOutcome
from models.order import OrderDraft
from models.review import ReviewKind
from models.states import ORDER_TERMINAL, OrderState
from models.stock import ShortPick, SkuUnits
from tests.builders import a_draft, order_id_of, skus_of, stocked
from tests.workflows.saboteur import Trouble, mark
from tests.workflows.stage import Child, Stage, set_up
from workflows import changing, order, order_case, paying, shipment, steps
from workflows.steps import ALL_STEPS, Step

pytestmark = pytest.mark.timeout(3600)

SABOTEUR = "tests.workflows.saboteur"
ON_HAND = 10
# Only a machine that hangs uses it up.
PATIENCE = 1500.0


@dataclass(frozen=True)
class Scenario:
    """A kind of order. ``cancel_at``: the state, of the order or its shipment, at which it is called off, if any.

    ``impatient``: it was to be there before it can be, so its plan is put before a person, with everything held.
    """

    name: str
    ends: OrderState
    city: str = "Leeds"
    price: int = 500
    cancel_at: str | None = None
    impatient: bool = False


PLAIN = Scenario("plain", OrderState.CLOSED)
REVIEWED = Scenario("reviewed", OrderState.CLOSED, price=150_000)
WAITING = Scenario("waiting", OrderState.CLOSED, city="IDLEVILLE")
CALLED_OFF = Scenario("called-off", OrderState.CANCELLED, city="IDLEVILLE", cancel_at="labelled")
UNRELEASED = Scenario("unreleased", OrderState.CANCELLED, cancel_at="in_review", impatient=True)
LOST = Scenario("lost", OrderState.COMPENSATED, city="LOSTVILLE")
UNHEARD_PICK = Scenario("unheard-pick", OrderState.CLOSED)
UNHEARD_AND_WAITING = Scenario("unheard-pick-waiting", OrderState.CLOSED, city="IDLEVILLE")
RECALLED = Scenario("recalled", OrderState.COMPENSATED, city="SILENTVILLE", cancel_at="handed_over")
AMENDED = Scenario("amended", OrderState.CLOSED, price=150_000)
# One of its two units is not found, and its parcel leaves before its run has heard of it.
SHORT = Scenario("short", OrderState.CLOSED, impatient=True)
SHORT_COMES_TO = 697
TRAVELLING = Scenario("travelling", OrderState.COMPENSATED, city="SILENTVILLE")


@dataclass(frozen=True)
class Row:
    """A step: the kind of order that comes to it, and the kind that is called off at it and then ends as it must."""

    played_by: Scenario
    called_off: Scenario
    then_ends: OrderState
    then_told: frozenset[CancelOutcome] = frozenset({CancelOutcome.CANCELLING})
    too_late: bool = False


def _row(played_by: Scenario, called_off: Scenario, then_ends: OrderState, *told: CancelOutcome) -> Row:
    return Row(played_by, called_off, then_ends, frozenset(told), too_late=not told)


_C = CancelOutcome
_ORDER = {
    steps.VALIDATE_ORDER.name: _row(PLAIN, PLAIN, OrderState.CANCELLED, _C.CANCELLING),
    steps.RECORD_PROGRESS.name: _row(REVIEWED, REVIEWED, OrderState.CANCELLED, _C.CANCELLING),
    steps.APPLY_AMENDMENT.name: _row(AMENDED, AMENDED, OrderState.CANCELLED, _C.CANCELLING),
    steps.ASSESS_ORDER.name: _row(PLAIN, PLAIN, OrderState.CANCELLED, _C.CANCELLING),
    steps.AUTHORISE_PAYMENT.name: _row(PLAIN, PLAIN, OrderState.CANCELLED, _C.CANCELLING),
    steps.ROUTE_ORDER.name: _row(PLAIN, PLAIN, OrderState.CANCELLED, _C.CANCELLING),
    steps.RESERVE_STOCK.name: _row(PLAIN, PLAIN, OrderState.CANCELLED, _C.CANCELLING),
    steps.NOTIFY.name: _row(PLAIN, WAITING, OrderState.CANCELLED, _C.CANCELLING),
    steps.SETTLE_ORDER.name: _row(PLAIN, PLAIN, OrderState.CLOSED),
    steps.REFUND_PAYMENT.name: _row(SHORT, SHORT, OrderState.CLOSED),
    steps.RELEASE_RESERVATION.name: _row(UNRELEASED, UNRELEASED, OrderState.CANCELLED, _C.ALREADY),
    steps.VOID_AUTHORISATION.name: _row(CALLED_OFF, CALLED_OFF, OrderState.CANCELLED, _C.ALREADY),
}
_SHIPMENT = {
    steps.REQUEST_PICK.name: _row(PLAIN, WAITING, OrderState.CANCELLED, _C.CANCELLING),
    steps.CHECK_PICK.name: _row(UNHEARD_PICK, UNHEARD_AND_WAITING, OrderState.CANCELLED, _C.CANCELLING),
    steps.BUY_LABEL.name: _row(PLAIN, WAITING, OrderState.CANCELLED, _C.CANCELLING),
    steps.RECORD_PROGRESS.name: _row(PLAIN, WAITING, OrderState.CANCELLED, _C.CANCELLING),
    # An order that no shipment answers in time, on a busy machine, says what it asks of them. What it says once they
    # have answered is tested in test_recall.
    steps.CAPTURE_PAYMENT.name: _row(
        PLAIN, TRAVELLING, OrderState.COMPENSATED, _C.INTERCEPTING, _C.INTERCEPTED, _C.CANCELLING
    ),
    steps.TRACK_PARCEL.name: _row(LOST, LOST, OrderState.COMPENSATED, _C.ENDED, _C.INTERCEPTING),
    steps.REFUND_PAYMENT.name: _row(LOST, LOST, OrderState.COMPENSATED, _C.ENDED, _C.INTERCEPTING),
    steps.INTERCEPT_PARCEL.name: _row(RECALLED, RECALLED, OrderState.COMPENSATED, _C.ALREADY),
    steps.NOTIFY.name: _row(RECALLED, RECALLED, OrderState.COMPENSATED, _C.ALREADY),
    steps.CANCEL_PICK.name: _row(CALLED_OFF, CALLED_OFF, OrderState.CANCELLED, _C.ALREADY),
    steps.VOID_LABEL.name: _row(CALLED_OFF, CALLED_OFF, OrderState.CANCELLED, _C.ALREADY),
    steps.RELEASE_RESERVATION.name: _row(CALLED_OFF, CALLED_OFF, OrderState.CANCELLED, _C.ALREADY),
}
# Each step of each workflow that runs it, as "order.notify".
MATRIX: Mapping[str, Row] = {f"order.{step}": row for step, row in _ORDER.items()} | {
    f"shipment.{step}": row for step, row in _SHIPMENT.items()
}

COLUMNS = (
    "fails for good",
    "time-out after the effect",
    "done twice",
    "called off before",
    "called off during",
    "called off after",
    "worker killed before",
    "worker killed during",
    "worker killed after",
)
_HOLDS = {"before": Trouble.HOLD_BEFORE, "during": Trouble.HOLD_DURING, "after": Trouble.HOLD_AFTER}
_ONCE_PER_STEP = {COLUMNS[0]: Trouble.FAIL, COLUMNS[1]: Trouble.LOSE, COLUMNS[2]: Trouble.TWICE}


def test_no_step_of_either_workflow_is_without_its_row() -> None:
    assert set(MATRIX) == steps_of("order", order, order_case, paying, changing) | steps_of(
        "shipment", shipment
    ), "a new step needs a row: who comes to it, how it ends"
    # Those of the reconciliation have tests of their own: tests/workflows/test_reconciliation.py.
    rest = {step.name for step in ALL_STEPS} - {
        step.name for step in (*steps.OF_RECONCILIATION, *steps.OF_STOCK_VALUES)
    }
    assert {name.partition(".")[2] for name in MATRIX} == rest


def steps_of(workflow: str, *code: ModuleType) -> set[str]:
    """The steps that a workflow's code names, or has undone by naming what they take."""
    named = {
        (node.value.id, node.attr)
        for module in code
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = {step.name for step in ALL_STEPS if ("e", step.takes.__name__) in named}
    known = (getattr(steps, name) for owner, name in named if owner == "steps")
    found |= {step.name for step in known if isinstance(step, Step)}
    # These two both workflows have from their base.
    found |= {steps.NOTIFY.name, steps.RECORD_PROGRESS.name}
    return {f"{workflow}.{step}" for step in found}


@dataclass
class Played:
    """One order of the matrix and what became of it. ``called_off_at``: the step at which the driver calls it off."""

    scenario: Scenario
    draft: OrderDraft
    troubles: dict[str, Trouble]
    ends: OrderState
    column: str
    called_off_at: str | None = None
    told: frozenset[CancelOutcome] = frozenset()
    too_late: bool = False
    answered: httpx.Response | None = None
    queued: bool = False
    state: OrderState | None = None
    struck: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    @property
    def order_id(self) -> str:
        return order_id_of(self.draft)


_numbers = count(1)


def _play(scenario: Scenario, column: str, troubles: dict[str, Trouble], **more: Any) -> Played:
    draft = a_draft(price=scenario.price)
    changes = {
        "external_id": f"{scenario.name}-{next(_numbers)}",
        "ship_to": draft.ship_to.model_copy(update={"city": scenario.city}),
        "promise_by": draft.placed_at if scenario.impatient else None,
    }
    return Played(
        scenario, draft.model_copy(update=changes), troubles, more.pop("ends", scenario.ends), column, **more
    )


def _undisturbed_and_called_off() -> dict[tuple[str, str], Played]:
    cells: dict[tuple[str, str], Played] = {}
    for column, trouble in _ONCE_PER_STEP.items():
        # Such an order can play all its steps one after the other.
        for scenario in {row.played_by.name: row.played_by for row in MATRIX.values()}.values():
            mine = [step for step, row in MATRIX.items() if row.played_by is scenario]
            played = _play(scenario, column, dict.fromkeys(mine, trouble))
            cells |= {(step, column): played for step in mine}
    for moment, hold in _HOLDS.items():
        for step, row in MATRIX.items():
            cells[step, f"called off {moment}"] = _play(
                row.called_off,
                f"called off {moment}",
                {step: hold},
                ends=row.then_ends,
                called_off_at=step,
                told=row.then_told,
                too_late=row.too_late,
            )
    return cells


def _killed() -> dict[tuple[str, str], Played]:
    return {
        (step, f"worker killed {moment}"): _play(row.played_by, f"worker killed {moment}", {step: hold})
        for moment, hold in _HOLDS.items()
        for step, row in MATRIX.items()
    }


@pytest.fixture(scope="module")
async def cells(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> dict[tuple[str, str], Played]:
    """Every cell, played out."""
    first, second = _undisturbed_and_called_off(), _killed()
    folder = tmp_path_factory.mktemp("stage")
    async with set_up(folder, database_url) as stage:
        everybody = _each(first) + _each(second)
        stock = {sku: ON_HAND for played in everybody for sku in skus_of(played.draft)}
        await stocked(stage.store, north=stock)
        stage.misbehave(
            FaultScript(fault=(Fault(do=FaultKind.WEBHOOK_LOST, at="warehouse", order="web:unheard-pick-*"),))
        )
        plan = {p.order_id: p.troubles for p in everybody}
        (folder / "plan.json").write_text(json.dumps(plan))
        async with stage.worker(SABOTEUR):
            await _Driver(stage, _each(first)).see_through()
        async with stage.worker(SABOTEUR) as worker:
            await _Driver(stage, _each(second)).kill_and_see_through(worker)
        await _examine(stage, everybody)
    return first | second


def _each(cells: Mapping[tuple[str, str], Played]) -> list[Played]:
    return list({played.order_id: played for played in cells.values()}.values())


class _Driver:
    """Customer, shop and reviewer of many orders at once."""

    def __init__(self, stage: Stage, everybody: list[Played]) -> None:
        self._stage = stage
        self._all = {played.order_id: played for played in everybody}
        self._calling_off: dict[str, asyncio.Task[None]] = {}
        self._decided: set[str] = set()
        self._amending: dict[str, asyncio.Task[None]] = {}

    async def see_through(self) -> None:
        """Until every order has ended, or patience has."""
        await self._send_in()
        await self._until(self._all_ended)

    async def kill_and_see_through(self, worker: Child) -> None:
        """Wait until every order is held at its moment, kill the one worker that holds them all, start another."""
        await self._send_in()
        await self._until(self._all_held)
        worker.kill()
        for played in self._all.values():
            for step in played.troubles:
                mark(self._stage.folder, "let_go", played.order_id, step).touch()
        async with self._stage.worker(SABOTEUR):
            await self._until(self._all_ended)

    async def _send_in(self) -> None:
        for played in self._all.values():
            await self._stage.submit(played.draft)

    def _all_ended(self) -> bool:
        return all(played.state in ORDER_TERMINAL for played in self._all.values())

    def _all_held(self) -> bool:
        return all(
            mark(self._stage.folder, "struck", played.order_id, step).exists()
            for played in self._all.values()
            for step in played.troubles
        )

    async def _until(self, enough: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not enough():
            if time.monotonic() > deadline:
                return
            await self._look_after_all()
            await asyncio.sleep(0.3)
        await asyncio.gather(*self._calling_off.values(), *self._amending.values())

    async def _look_after_all(self) -> None:
        rows = await self._stage.rows("SELECT order_id, state FROM orders")
        for row in rows:
            if (played := self._all.get(row["order_id"])) is not None:
                played.state = OrderState(row["state"])
                if played.scenario.cancel_at == row["state"]:
                    self._call_off(played, "as planned")
        for row in await self._stage.rows("SELECT order_id, state, handed_over_at FROM shipments"):
            played = self._all.get(row["order_id"])
            # Between two looks of ours a parcel may be handed over and already be missed.
            seen = {row["state"], "handed_over"} if row["handed_over_at"] else {row["state"]}
            if played is not None and played.scenario.cancel_at in seen:
                self._call_off(played, "as planned")
        for played in self._all.values():
            step = played.called_off_at
            if step is not None and mark(self._stage.folder, "struck", played.order_id, step).exists():
                self._call_off(played, f"at {step}", let_go=step)
        for row in await self._stage.rows(
            "SELECT task_id, order_id, workflow_id, kind FROM review_tasks WHERE state = 'open'"
        ):
            if row["order_id"] in self._all:
                await self._approve(row)

    async def _approve(self, task: dict[str, Any]) -> None:
        # Every recommendation that these orders meet is to go on: try again, wait on, pay back.
        if task["task_id"] in self._decided:
            return
        played = self._all[task["order_id"]]
        if played.scenario is SHORT and task["kind"] == ReviewKind.PLAN:
            await self._lose_a_unit(played)
        elif played.scenario.impatient and played.state is OrderState.IN_REVIEW:
            return  # it is called off here
        if played.scenario is AMENDED and task["kind"] == ReviewKind.RISK and not await self._amended(played):
            return  # it is changed first
        at_gate = played.called_off_at == f"order.{steps.RECORD_PROGRESS.name}"
        if at_gate and f"{task['order_id']} at {played.called_off_at}" not in self._calling_off:
            return  # it is to be called off first
        missed = played.scenario is RECALLED and task["kind"] == ReviewKind.SHIPMENT_LOST
        if missed and f"{task['order_id']} as planned" not in self._calling_off:
            return  # as well
        self._decided.add(task["task_id"])
        await self._stage.client.get_workflow_handle(task["workflow_id"]).signal(
            "approve", {"actor": "ana", "reason": "go on", "task_id": task["task_id"]}
        )

    async def _lose_a_unit(self, played: Played) -> None:
        """Its picker does not find a unit. Its run hears nothing of it, as though the parcel had been faster."""
        short = ShortPick(
            document_id=f"short-{played.order_id}",
            actor="wms",
            shipment_id=f"{played.order_id}:1",
            lines=(SkuUnits(sku=skus_of(played.draft)[0], quantity=1),),
        )
        async with self._stage.store.transaction() as session:
            await warehouse.short_pick(session, short)
            mine = [loss for loss in await untold_losses(session, 1_000) if loss.order_id == played.order_id]
            await told_of(session, [row for loss in mine for row in loss.released])

    async def _amended(self, played: Played) -> bool:
        """Whether the order was amended while it was in review, which is asked for at first sight."""
        if played.order_id not in self._amending:
            self._amending[played.order_id] = asyncio.create_task(self._amend(played))
        return self._amending[played.order_id].done()

    async def _amend(self, played: Played) -> None:
        elsewhere = played.draft.ship_to.model_copy(update={"city": "York"})
        wish = {
            "actor": "ana",
            "reason": "they have moved",
            "request_id": f"amend-{played.order_id}",
            "ship_to": elsewhere.model_dump(mode="json"),
        }
        while True:
            answer = await self._stage.api.post(f"/v1/orders/{played.order_id}/amendments", json=wish)
            if answer.status_code in (200, 201, 202, 409):
                return
            assert answer.status_code in (429, 503), f"{played.order_id}: {answer.status_code} {answer.text}"
            await asyncio.sleep(1)

    def _call_off(self, played: Played, when: str, let_go: str | None = None) -> None:
        name = f"{played.order_id} {when}"
        if name not in self._calling_off:
            self._calling_off[name] = asyncio.create_task(self._cancel(played, name, let_go))

    async def _cancel(self, played: Played, name: str, let_go: str | None) -> None:
        wish = {"actor": "ana", "reason": "not wanted", "request_id": name.replace(" ", "-")}
        while True:
            answer = await self._stage.api.post(f"/v1/orders/{played.order_id}/cancel", json=wish)
            if answer.status_code in (200, 202, 409):
                break
            # As its document says: too many of us at once. A repeat of the same request counts once.
            assert answer.status_code in (429, 503), f"{played.order_id}: {answer.status_code} {answer.text}"
            await asyncio.sleep(1)
        if let_go is not None:
            mark(self._stage.folder, "let_go", played.order_id, let_go).touch()
            while answer.status_code == 202:
                # No answer in time on this machine; what it is, the same request hears when it is made again.
                played.queued = True
                await asyncio.sleep(1)
                answer = await self._stage.api.post(f"/v1/orders/{played.order_id}/cancel", json=wish)
            played.answered = answer


async def _examine(stage: Stage, everybody: list[Played]) -> None:
    """Say of each order what is wrong: its end, what the caller was told, its money, goods, parcels and run."""
    payments, picks, labels = stage.effects("payment"), stage.effects("warehouse"), stage.effects("carrier")
    stock = {row["sku"]: row for row in await stage.rows("SELECT sku, on_hand, reserved FROM stock")}
    tasks = await stage.rows("SELECT order_id, kind, task FROM review_tasks WHERE state = 'decided'")
    noted: dict[str, set[str]] = {}
    for row in await stage.rows("SELECT DISTINCT order_id, kind FROM timeline"):
        noted.setdefault(row["order_id"], set()).add(row["kind"])
    for played in everybody:
        order_id, wrong = played.order_id, played.wrong
        played.struck = {s for s in played.troubles if mark(stage.folder, "struck", order_id, s).exists()}
        wrong += [f"{step} answered otherwise the second time" for step in played.troubles
                  if mark(stage.folder, "differs", order_id, step).exists()]  # fmt: skip
        if played.state is not played.ends:
            wrong.append(f"it is {played.state}, not {played.ends}")
            continue
        wrong += _wrong_answer(played)
        if played.column == COLUMNS[0]:
            wrong += _untold(
                played, [t for t in tasks if t["order_id"] == order_id], noted.get(order_id, set())
            )
        wrong += _wrong_money(played, [e for e in payments if e["reference"] == order_id])
        wrong += _wrong_goods(played, stock[skus_of(played.draft)[0]])
        parcel = f"{order_id}:1"
        for kind, effects, live in (
            ("pick", picks, {"accepted"}),
            ("label", labels, {"bought", "returning"}),
        ):
            kept = [
                e for e in effects if e["kind"] == kind and e["reference"] == parcel and e["state"] in live
            ]
            if len(kept) > (0 if played.ends is OrderState.CANCELLED else 1):
                wrong.append(f"{len(kept)} {kind}s are kept: {kept}")
        run = await stage.client.get_workflow_handle(order_workflow_id(order_id)).describe()
        if run.status is None or run.status.name not in ("COMPLETED", "RUNNING"):
            wrong.append(f"its run is {run.status}")


def _wrong_answer(played: Played) -> list[str]:
    if played.called_off_at is None:
        return []
    answer = played.answered
    if answer is None:
        return ["it was not called off before it ended"]
    told = played.told
    if played.queued:
        # It went on before it could be asked again, and the answer says what has become of it. Its end is checked.
        if answer.status_code == 409:
            return []
        told |= {CancelOutcome.ENDED, CancelOutcome.PARTLY}
    right = answer.status_code == 409 if played.too_late else _outcome(answer) in told
    return [] if right else [f"calling off was answered {answer.status_code} {answer.text}"]


def _untold(played: Played, tasks: list[dict[str, Any]], noted: set[str]) -> list[str]:
    """Which failures for good neither came before a person nor onto the timeline."""
    untold = []
    for step in (name.partition(".")[2] for name in played.struck):
        if step in _ONLY_NOTED:
            told = _ONLY_NOTED[step] in noted
        else:
            told = step == steps.RECORD_PROGRESS.name or any(
                task["kind"] in _MENDED and f"{step!r}" in task["task"]["what_happened"] for task in tasks
            )
        if not told:
            untold.append(
                f"nobody was told that {step} failed: {[t['task']['what_happened'] for t in tasks]}"
            )
    return untold


# Nothing depends on a look or on a message. Progress that could not be written is written a minute later.
_ONLY_NOTED = {
    steps.CHECK_PICK.name: "look.failed",
    steps.TRACK_PARCEL.name: "look.failed",
    steps.INTERCEPT_PARCEL.name: "look.failed",
    steps.NOTIFY.name: "notify.failed",
}
_MENDED = (ReviewKind.STEP_FAILED, ReviewKind.COMPENSATION_FAILED)


def _outcome(answer: httpx.Response) -> str | None:
    return answer.json()["outcome"] if answer.status_code == 200 else None


def _wrong_money(played: Played, effects: list[dict[str, Any]]) -> list[str]:
    total = played.draft.totals.total_minor

    def moved(kind: str) -> int:
        return sum(e["amount_minor"] for e in effects if e["kind"] == kind)

    captured, refunded = moved("capture"), moved("refund")
    wrong = []
    if (captured, refunded) not in {
        OrderState.CLOSED: {(total, SHORT_COMES_TO if played.scenario is SHORT else 0)},
        OrderState.COMPENSATED: {(total, total)},
        OrderState.CANCELLED: {(0, 0)},
    }[played.ends]:
        wrong.append(f"{captured} of {total} captured and {refunded} refunded")
    holds = [e for e in effects if e["kind"] == "authorisation" and e["state"] == "open"]
    if sum(e["amount_minor"] for e in holds) > captured:
        wrong.append(f"money is still held: {holds}")
    return wrong


def _wrong_goods(played: Played, stock: dict[str, Any]) -> list[str]:
    left = 0 if played.ends is OrderState.CANCELLED else played.draft.lines[0].quantity
    if (stock["on_hand"], stock["reserved"]) != (ON_HAND - left, 0):
        return [f"{stock['on_hand']} on hand and {stock['reserved']} reserved after {left} of {ON_HAND} left"]
    return []


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("step", MATRIX)
async def test_cell(cells: dict[tuple[str, str], Played], step: str, column: str) -> None:
    played = cells[step, column]
    assert not played.wrong, f"{played.order_id}: {'; '.join(played.wrong)}"
    assert step in played.struck, f"{played.order_id} never came to {step}: this cell proves nothing"
