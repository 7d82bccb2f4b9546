"""Orders that go complete or not at all: each option is tried with everything. Exact for every kind of instance.

Of equal options the first ships; an order that may be left out whole is shipped if that costs no more.
"""

from policies.routing.instance import Instance
from policies.routing.solution import Assignment, NoPlan, Solution, fits, solution, terms

METHOD = "complete"


def supports(instance: Instance) -> str | None:
    """``None``, or why not."""
    return None if instance.ship_complete else "the order may be split"


def solve(instance: Instance) -> Solution | NoPlan:
    """The cheapest single shipment of everything."""
    plans = [
        *(everything_from(instance, option) for option in range(len(instance.options))),
        (),
    ]
    feasible = [plan for plan in plans if fits(instance, plan)]
    if not feasible:
        return NoPlan()
    return solution(instance, min(feasible, key=lambda plan: terms(instance, plan).total_mills), METHOD)


def everything_from(instance: Instance, option: int) -> tuple[Assignment, ...]:
    """The whole order from one option, allowed or not."""
    return tuple(Assignment(line, option, asked.quantity) for line, asked in enumerate(instance.lines))
