from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.clock import BusinessClock, ClockStart
from models.effects import Audience, Notify, ReleaseReservation, Template, VoidAuthorisation
from models.memory import OrderMemory
from models.messages import ShipmentProgress
from models.money import Money
from models.runs import OrderRun
from models.states import OrderState, ShipmentState

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)
# Not ``memory``: that is our own, see the last test.
FIELDS = sorted(set(OrderRun.model_fields) - {"memory"})


def problems(payload: Any) -> list[tuple[str, str]]:
    return [(problem.path, problem.code) for problem in OrderRun.understood(payload).problems]


def test_a_sound_start_is_understood_as_it_stands() -> None:
    run = OrderRun(
        order_id="web:1",
        document_hash="h",
        clock=ClockStart(speed=60, business_start=datetime(2011, 9, 1, tzinfo=UTC)),
        memory=OrderMemory(order_id="web:1", entry_count=3, review_count=2, attempts={"route": 1}),
    )
    assert OrderRun.understood(run.model_dump(mode="json")) == run
    assert OrderRun.understood() == OrderRun.understood({}) == OrderRun()


def test_what_a_run_hands_on_to_its_successor_comes_through_whole() -> None:
    key = "order:web:1:authorise:1"
    held = Money(minor=1299, currency="GBP")
    memory = OrderMemory(
        order_id="web:1",
        clock=BusinessClock(speed=60, wall_start=NOON, business_start=NOON, paused=timedelta(seconds=1.5)),
        undo=[
            VoidAuthorisation(order_id="web:1", authorisation_key=key, key="k1"),
            ReleaseReservation(order_id="web:1", reservation_key="order:web:1:reserve:1", key="k2"),
        ],
        passed_gates=["gate_a"],
        deadlines={"backorder": NOON},
        unsent=[
            Notify(
                order_id="web:1",
                audience=Audience.CUSTOMER,
                template=Template.ORDER_CONFIRMED,
                facts={},
                key="k3",
            )
        ],
        shipments={
            1: ShipmentProgress(
                event_id="e",
                shipment_id="web:1:1",
                number=1,
                state=ShipmentState.DELIVERED,
                version=3,
                captured=held,
                occurred_at=NOON,
            )
        },
        state=OrderState.RELEASED,
        captured=held,
    )
    run = OrderRun(document_hash="h", memory=memory)
    assert OrderRun.understood(run.model_dump(mode="json"), continued=True) == run


@pytest.mark.parametrize(
    "memory", [{"released": True}, {"undo": []} | {"reserved": True}, {"state": "closed"}]
)
def test_a_memory_that_nobody_handed_on_is_a_problem_and_not_believed(memory: dict[str, Any]) -> None:
    run = OrderRun.understood({"document_hash": "h", "memory": {"order_id": "web:1"} | memory})
    assert [(problem.path, problem.code) for problem in run.problems] == [("memory", "made_up")]
    assert (run.memory, run.document_hash) == (None, "h")


def test_a_memory_that_nobody_handed_on_and_nobody_can_read_is_a_problem_too() -> None:
    payload = {"draft": {"a": 1}, "memory": {"order_id": "web:1", "state": "a state of a later version"}}
    assert problems(payload) == [("memory.state", "enum")]


@pytest.mark.parametrize("draft", [[], "x", {}, {"lines": 1}])
def test_any_draft_is_left_to_validation(draft: Any) -> None:
    assert OrderRun.understood({"draft": draft}) == OrderRun(draft=draft)


@pytest.mark.parametrize("payload", ["x", [], 7, True])
def test_a_start_that_is_no_object_is_a_problem(payload: Any) -> None:
    assert problems(payload) == [("", "not_an_object")]


@pytest.mark.parametrize(
    ("clock", "path"),
    [
        ({"speed": 1e-300}, "clock.speed"),
        ({"speed": 0}, "clock.speed"),
        ({"speed": "fast"}, "clock.speed"),
        ({"business_start": "0001-01-01T00:00:00Z"}, "clock.business_start"),
        ({"business_start": "9999-12-31T23:59:59Z"}, "clock.business_start"),
        ({"business_start": "2011-09-01T00:00:00"}, "clock.business_start"),
        ("noon", "clock"),
    ],
)
def test_a_clock_that_nobody_can_reckon_with_is_a_problem_and_not_used(clock: Any, path: str) -> None:
    run = OrderRun.understood({"draft": {"a": 1}, "clock": clock})
    assert [problem.path for problem in run.problems] == [path]
    assert (run.draft, run.clock) == ({"a": 1}, ClockStart())


@given(json_values | st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_understood_or_named_as_a_problem(payload: Any) -> None:
    run = OrderRun.understood(payload)
    assert OrderRun.understood(run.model_dump(mode="json")) == run


def test_a_memory_that_cannot_be_read_waits_for_code_that_can() -> None:
    """It says what money and stock the run holds: a run that went on without it would leave them held for ever."""
    with pytest.raises(ValidationError):
        handed_on = {"memory": {"order_id": "web:1", "state": "a state of a later version"}}
        OrderRun.understood(handed_on, continued=True)
