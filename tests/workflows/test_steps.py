from datetime import timedelta
from typing import Any

import pytest

from workflows import steps
from workflows.steps import ALL_STEPS, Step


def patience(step: Step[Any, Any]) -> timedelta:
    """How long a step is tried before a person is asked, if every attempt fails at once."""
    retry, waited = step.retry, timedelta(0)
    interval = retry.initial_interval
    for _ in range(retry.maximum_attempts - 1):
        waited += interval
        interval = min(interval * retry.backoff_coefficient, retry.maximum_interval or interval)
    return waited


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: step.name)
def test_patience_is_counted_in_attempts_and_lasts_half_an_hour_at_least(step: Step[Any, Any]) -> None:
    if step is steps.RECORD_PROGRESS:
        assert step.retry.maximum_attempts == 0, "what happened must be written, however long it takes"
    elif step in (steps.CHECK_PICK, steps.TRACK_PARCEL, steps.INTERCEPT_PARCEL):
        assert timedelta(minutes=1) <= patience(step) < timedelta(minutes=2), "nothing depends on a look"
    else:
        assert timedelta(minutes=30) <= patience(step) < timedelta(hours=25)


def test_money_and_goods_are_given_back_with_a_day_of_patience() -> None:
    undoing = (steps.VOID_AUTHORISATION, steps.RELEASE_RESERVATION, steps.CANCEL_PICK, steps.VOID_LABEL)
    assert all(patience(step) >= timedelta(hours=24) for step in undoing)
