"""A feasible plan at once: the exact methods begin with it, and it is the answer where they run out of time.

Options are opened one by one, whichever lets the plan serve most of what must be served and then cost least; then one
is closed or exchanged as long as that helps. For a given set of open options every line is filled from its cheapest
ones. Ties go to the option that comes first.
"""

import time
from collections import defaultdict
from collections.abc import Iterable

from policies.routing.instance import Instance, Linear, Stepped
from policies.routing.solution import Assignment, Solution, fits, solution, terms

METHOD = "greedy"

# Units that must be served and are not, then mills.
_Score = tuple[int, int]

# Of many options only these are tried in a round: those that promise most.
_CANDIDATES = 12


def solve(instance: Instance, *, budget_s: float = 1.0) -> Solution | None:
    """A feasible plan with no bound to speak of, or ``None``: that none was found proves nothing."""
    search = _Greedy(instance, time.monotonic() + budget_s)
    search.run()
    if search.best is None:
        return None
    return solution(
        instance, search.best, METHOD, lower_bound_mills=-instance.prohibitive_mills, fallback=True
    )


class _Greedy:
    """``best``: the cheapest feasible plan that was come across."""

    def __init__(self, instance: Instance, deadline: float) -> None:
        self.best: tuple[Assignment, ...] | None = None
        self._cost = 0
        self._instance = instance
        self._deadline = deadline
        self._reach = [
            [instance.reach(line, option) for option in range(len(instance.options))]
            for line in range(len(instance.lines))
        ]
        self._price = [
            [
                0 if cost is None else cost + round(_per_gram(instance, option) * line.unit_weight_g)
                for option, cost in enumerate(row)
            ]
            for line, row in zip(instance.lines, instance.unit_cost, strict=True)
        ]
        # What is hardest to place goes first: whole lines, then those that few options can serve.
        self._order = sorted(
            range(len(instance.lines)),
            key=lambda place: (
                instance.lines[place].unfilled_mills is not None,
                instance.lines[place].splittable,
                sum(units > 0 for units in self._reach[place]),
                -instance.lines[place].quantity * instance.lines[place].unit_weight_g,
                place,
            ),
        )

    def run(self) -> None:
        """Open, close and exchange options until nothing helps or the time is over."""
        opened: tuple[int, ...] = ()
        score = self._tried(opened)
        while True:
            step = min(
                ((self._tried(others), others) for others in self._neighbours(opened)),
                default=(score, opened),
            )
            if step[0] >= score or time.monotonic() > self._deadline:
                break
            score, opened = step
        for option in self._promising(()):
            self._tried((option,))

    def _neighbours(self, opened: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        for option in self._promising(opened):
            if time.monotonic() > self._deadline:
                return
            if len(opened) < self._instance.most_shipments:
                yield tuple(sorted((*opened, option)))
            for other in opened:
                yield tuple(sorted({*opened, option} - {other}))
        for other in opened:
            yield tuple(sorted({*opened} - {other}))

    def _promising(self, opened: tuple[int, ...]) -> list[int]:
        """The closed options that could save most on what the open ones leave out or serve dearly."""
        instance = self._instance
        now = []
        for place, line in enumerate(instance.lines):
            leaving_out = (
                instance.prohibitive_mills // (2 * instance.units + 2)
                if line.unfilled_mills is None
                else line.unfilled_mills
            )
            served = [self._price[place][o] for o in opened if self._reach[place][o] == line.quantity]
            now.append(min(served, default=leaving_out))
        gain = {
            option: sum(
                self._reach[place][option] * max(0, price - self._price[place][option])
                for place, price in enumerate(now)
            )
            - instance.options[option].fixed_mills
            for option in range(len(instance.options))
            if option not in opened
        }
        return sorted(gain, key=lambda option: (-gain[option], option))[:_CANDIDATES]

    def _tried(self, opened: tuple[int, ...]) -> _Score:
        instance = self._instance
        plan = self._filled(opened)
        plan = self._without_worthless(plan)
        served: dict[int, int] = defaultdict(int)
        for one in plan:
            served[one.line] += one.quantity
        short = sum(
            line.quantity - served[place]
            for place, line in enumerate(instance.lines)
            if line.unfilled_mills is None
        )
        cost = terms(instance, plan).total_mills
        if not short and (self.best is None or cost < self._cost) and fits(instance, plan):
            self.best, self._cost = plan, cost
        return short, cost

    def _without_worthless(self, plan: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
        """Without shipments that several may not be; the most valuable one always stays."""
        least = self._instance.min_split_value_minor
        value: dict[int, int] = defaultdict(int)
        for one in plan:
            value[one.option] += one.quantity * self._instance.lines[one.line].unit_value_minor
        if not least or len(value) < 2 or min(value.values()) >= least:
            return plan
        first = max(value, key=lambda option: (value[option], -option))
        kept = {option for option, worth in value.items() if worth >= least} or {first}
        return tuple(one for one in plan if one.option in kept)

    def _filled(self, opened: tuple[int, ...]) -> tuple[Assignment, ...]:
        instance = self._instance
        stock: dict[tuple[str, str], int] = {}
        capacity = dict(instance.capacity)
        room = {option: instance.options[option].weight_limit_g for option in opened}
        plan = []
        for place in self._order:
            line = instance.lines[place]
            left = line.quantity
            reach, price = self._reach[place], self._price[place]
            for option in sorted((o for o in opened if reach[o]), key=lambda o: (price[o], o)):
                if line.unfilled_mills is not None and price[option] >= line.unfilled_mills:
                    break
                node = instance.options[option].node
                held = stock.setdefault((node, line.sku), instance.held(line, instance.options[option]))
                units = min(left, held, capacity.get(node, left))
                limit = room[option]
                if limit is not None and line.unit_weight_g:
                    units = min(units, limit // line.unit_weight_g)
                if units <= 0 or (units < line.quantity and not line.splittable):
                    continue
                plan.append(Assignment(place, option, units))
                stock[node, line.sku] -= units
                if node in capacity:
                    capacity[node] -= units
                if limit is not None:
                    room[option] = limit - units * line.unit_weight_g
                left -= units
                if not left:
                    break
        return tuple(sorted(plan))


def _per_gram(instance: Instance, option: int) -> float:
    """About what a gram more costs."""
    rate = instance.options[option].rate
    if isinstance(rate, Linear):
        return rate.mills_per_g
    if isinstance(rate, Stepped):
        return rate.step_mills / rate.step_g
    up_to_g, mills = rate.rows[-1]
    return mills / max(1, up_to_g)
