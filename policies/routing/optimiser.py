"""One order, the cheapest plan: picks the method that is exact on the instance and quickest at it.

1. ``complete`` for orders that must not be split.
2. ``dp`` for up to twelve lines that each come from one option.
3. ``parcels`` for units that all weigh and cost the same, any number of lines, and quantities that may be split.
4. The same units at costs that differ: ``parcels`` and ``sets`` for the bound, ``refit`` for the plan.
5. ``sets`` for linear freight, any number of lines, and quantities that may be split.
6. ``cp-sat`` for the rest, from the best plan and bound that the others found.

``dp`` and ``sets`` leave out what couples lines; where their plan keeps to it all the same it is proven, and that is
so for most orders. Deterministic: the same instance gives the same plan, unless time ran out on one of the runs.
"""

import time

from policies.routing import complete, dp, exact_general, explain, greedy, kernels, parcels, refit, sets
from policies.routing.instance import Instance
from policies.routing.solution import (
    Assignment,
    NoPlan,
    OnlyBound,
    Outcome,
    Solution,
    Unfillable,
    fits,
    solution,
)

BUDGET_S = 0.25
# Of the budget; the rest is for the step that is under way when that is over, and for the plan.
_SEARCHED = 0.9


def solve(instance: Instance, *, budget_s: float = BUDGET_S, explained: bool = True) -> Solution | Unfillable:
    """The cheapest plan, or why there is none. Past ``budget_s`` the best plan found, with a bound on its gap.

    Where no better plan than the quick one was found in time, ``fallback`` is set. It never raises for an instance that
    merely cannot be served. The budget is kept to within what it takes to make a model, which cannot be interrupted.

    To explain why there is no plan takes other plans, each with a budget of its own: no reasons unless ``explained``.
    """
    found = best(instance, time.monotonic() + _SEARCHED * budget_s)
    if isinstance(found, Solution):
        return found
    if not explained:
        return Unfillable((), proven=isinstance(found, NoPlan))
    if impossible := explain.impossible_lines(instance):
        return Unfillable(impossible)
    if isinstance(found, OnlyBound):
        return Unfillable((explain.out_of_time(instance),), proven=False)
    return Unfillable(explain.binding(instance, _can_be_served))


def warm_up() -> None:
    """Load the solver and the compiled kernel, for a process that is about to route: seconds that no order's budget
    covers, and 200 MB that other processes need not have.
    """
    kernels.warm_up()
    exact_general.warm_up()
    refit.warm_up()


def best(instance: Instance, deadline: float) -> Outcome:
    """The answer of the first method that has one; ``OnlyBound`` where time ran out before there was any plan."""
    if complete.supports(instance) is None:
        return complete.solve(instance)
    relaxed: Outcome = _NOTHING
    if dp.supports(instance) is None:
        relaxed = dp.solve(instance)
    elif parcels.supports(instance) is None:
        relaxed = parcels.solve(instance, budget_s=_left(deadline))
    elif (alike := refit.alike(instance)) is not None:
        relaxed = _apart(instance, alike, deadline)
    elif sets.supports(instance) is None:
        relaxed = sets.solve(instance, budget_s=_left(deadline))
    return _general(instance, relaxed, deadline) if isinstance(relaxed, OnlyBound) else relaxed


def _apart(instance: Instance, alike: refit.Alike, deadline: float) -> Outcome:
    """Units that weigh the same but cost differently: the bounds of two methods, and the best plan from both."""
    found = parcels.solve(alike.instance, budget_s=_left(deadline) / 4)
    if isinstance(found, NoPlan):
        return found
    bound, plans = found.lower_bound_mills + alike.more_mills, [found.assignments]
    if sets.supports(instance) is None:
        narrowed = sets.solve(instance, budget_s=_left(deadline) / 3)
        if not isinstance(narrowed, OnlyBound) and (isinstance(narrowed, NoPlan) or narrowed.proven):
            return narrowed
        bound = max(bound, narrowed.lower_bound_mills)
        plans.append(narrowed.assignments)
    best = refit.improved(instance, plans, time.monotonic() + _left(deadline) / 2)
    return OnlyBound(bound, () if best is None else best)


def _general(instance: Instance, relaxed: OnlyBound, deadline: float) -> Outcome:
    start = _incumbent(instance, relaxed.assignments, deadline)
    bound = relaxed.lower_bound_mills
    if start is not None and start.cost_mills <= bound:
        return solution(instance, start.assignments, start.method)
    general: Outcome = relaxed
    if _left(deadline) > _WORTH_A_MODEL_S:
        hint = None if start is None else start.assignments
        general = exact_general.solve(instance, budget_s=_left(deadline), hint=hint, lower_bound_mills=bound)
    if start is None or isinstance(general, NoPlan):
        return general
    if isinstance(general, Solution) and general.cost_mills <= start.cost_mills:
        return general
    bound = max(bound, general.lower_bound_mills)
    return solution(instance, start.assignments, start.method, lower_bound_mills=bound, fallback=True)


_NOTHING = OnlyBound(-(1 << 60))
# With less time than this left, making the model would only be late.
_WORTH_A_MODEL_S = 0.002


def _incumbent(instance: Instance, plan: tuple[Assignment, ...], deadline: float) -> Solution | None:
    """The better of the quick plan and of a relaxed one, if that keeps all rules; the relaxed one if they are equal."""
    quick = greedy.solve(instance, budget_s=_left(deadline) / 4)
    if plan and fits(instance, plan):
        relaxed = solution(instance, plan, sets.METHOD, lower_bound_mills=-instance.prohibitive_mills)
        if quick is None or relaxed.cost_mills <= quick.cost_mills:
            return relaxed
    return quick


def _can_be_served(instance: Instance) -> Solution | None:
    found = best(instance, time.monotonic() + BUDGET_S)
    return found if isinstance(found, Solution) else None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
