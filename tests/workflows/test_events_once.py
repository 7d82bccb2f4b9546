"""An event has its effect once, and is known by its kind and its id."""

from types import SimpleNamespace
from typing import Any

from workflows.case import _REMEMBERED_EVENTS, Case


def a_run(*remembered: str) -> Any:
    return SimpleNamespace(memory=SimpleNamespace(events_seen=list(remembered)))


def test_warehouse_and_carrier_may_number_their_events_alike() -> None:
    run = a_run()
    heard = [Case._first_time(run, kind, "1") for kind in ("wms_event", "carrier_event", "wms_event")]
    assert heard == [True, True, False]


def test_what_a_run_remembers_from_before_kinds_were_told_apart_is_not_heard_again() -> None:
    run = a_run("1")
    assert not Case._first_time(run, "carrier_event", "1")
    assert Case._first_time(run, "carrier_event", "2")


def test_the_oldest_event_is_forgotten_first() -> None:
    run = a_run()
    for number in range(_REMEMBERED_EVENTS + 1):
        Case._first_time(run, "carrier_event", str(number))
    assert len(run.memory.events_seen) == _REMEMBERED_EVENTS
    assert not Case._first_time(run, "carrier_event", "1")
