"""Run activities as Temporal does, and lose answers on the way back."""

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.implements import step_of
from models.base import Contract
from models.errors import OutcomeUnknown

In = TypeVar("In", bound=Contract)
Out = TypeVar("Out", bound=Contract)
Port = TypeVar("Port")


async def run(
    activity: Callable[[In], Awaitable[Out]], effect: In, start_to_close: timedelta | None = None
) -> Out:
    """The activity's answer, in an activity environment with its step's retries and time-out, or another."""
    step = step_of(activity)
    assert step is not None
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info,
        activity_type=step.name,
        start_to_close_timeout=start_to_close or step.start_to_close,
        retry_policy=step.retry,
    )
    return cast(Out, await environment.run(activity, effect))


async def failure_of(
    activity: Callable[[In], Awaitable[Out]], effect: In, start_to_close: timedelta | None = None
) -> ApplicationError:
    """How the activity fails."""
    with pytest.raises(ApplicationError) as caught:
        await run(activity, effect, start_to_close)
    return caught.value


class LosesAnswers:
    """A neighbour whose effects really happen, and whose answers to the named methods get lost ``times`` times."""

    def __init__(self, port: object, *methods: str, times: int = 1) -> None:
        self._port = port
        self._methods = methods
        self._left = times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in self._methods:
            return method

        async def call(**arguments: Any) -> Any:
            answer = await method(**arguments)
            if self._left > 0:
                self._left -= 1
                raise OutcomeUnknown(f"the answer to {name} was lost")
            return answer

        return call


def losing(port: Port, *methods: str, times: int = 1) -> Port:
    """``port``, losing the answers of ``methods``."""
    return cast(Port, LosesAnswers(port, *methods, times=times))
