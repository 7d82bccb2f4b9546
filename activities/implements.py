"""How an activity says which step of the table it implements."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import activity

from models.base import Contract
from workflows.steps import Step

In = TypeVar("In", bound=Contract)
Out = TypeVar("Out", bound=Contract)
Host = TypeVar("Host")


def implements(
    step: Step[In, Out],
) -> Callable[[Callable[[Host, In], Awaitable[Out]]], Callable[[Host, In], Awaitable[Out]]]:
    """Register an async method as the activity of ``step``, under the step's name. The types must be the step's own."""

    def register(method: Callable[[Host, In], Awaitable[Out]]) -> Callable[[Host, In], Awaitable[Out]]:
        defined = activity.defn(name=step.name)(method)
        defined.__step__ = step  # type: ignore[attr-defined]
        return defined

    return register


def step_of(method: Callable[..., Any]) -> Step[Any, Any] | None:
    """The step that ``method`` implements, or None."""
    return getattr(method, "__step__", None)
