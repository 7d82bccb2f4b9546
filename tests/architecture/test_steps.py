"""The table of steps, the activities and the workers' registry say the same."""

import importlib
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

from activities.implements import step_of
from tests.architecture.sources import modules
from workers.embedded.stack import WORKER_GROUPS
from workers.registry import ACTIVITY_CLASSES, activity_methods, load
from workflows import steps


def implemented() -> dict[str, Callable[..., Any]]:
    """Every function and method in ``activities`` that says which step it implements, by its full name."""
    found: dict[str, Callable[..., Any]] = {}
    for name, _ in modules("activities"):
        if name.rpartition(".")[2] in {"__main__", "env"} or "migrations" in name:
            continue
        module = importlib.import_module(name)
        for owner in [module, *(m for m in vars(module).values() if inspect.isclass(m))]:
            if inspect.isclass(owner) and owner.__module__ != name:
                continue
            for member in vars(owner).values():
                if callable(member) and step_of(member) and member.__module__ == name:
                    found[f"{name}.{member.__qualname__}"] = member
    return found


def test_every_step_is_implemented_by_exactly_one_activity() -> None:
    names = Counter(step.name for activity in implemented().values() if (step := step_of(activity)))
    assert names == Counter(step.name for step in steps.ALL_STEPS)


def test_the_registry_serves_each_step_on_its_own_queue_and_nothing_else() -> None:
    registered = {
        queue: sorted(
            step.name
            for host in hosts
            for method in activity_methods(load(host))
            if (step := step_of(method))
        )
        for queue, hosts in ACTIVITY_CLASSES.items()
    }
    wanted: dict[str, list[str]] = {}
    for step in steps.ALL_STEPS:
        wanted.setdefault(step.queue, []).append(step.name)
    assert registered == {queue: sorted(names) for queue, names in wanted.items()}


def test_the_embedded_stack_runs_a_worker_for_every_queue() -> None:
    served = [queue for queues in WORKER_GROUPS.values() for queue in queues]
    assert sorted(served) == sorted(steps.QUEUES)
