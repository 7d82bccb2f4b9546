"""Everything that an instance can say, as an integer program for OR-tools' CP-SAT.

One worker and a fixed seed: as long as the time suffices, the same instance gives the same plan. The model is complete,
so an answer without time running out is proven. Importing this module is cheap, the solver is imported by ``solve``.
"""

import time
from typing import TYPE_CHECKING

from policies.routing.instance import Brackets, Instance, Linear, Stepped
from policies.routing.solution import Assignment, NoPlan, OnlyBound, Outcome, solution, unfilled

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

METHOD = "cp-sat"

# Presolve takes longer than the search where there is little to search.
_PRESOLVE_FROM = 1_500


def supports(instance: Instance) -> str | None:
    """``None``: it supports everything."""
    return None


def warm_up() -> None:
    """Import the solver."""
    from ortools.sat.python import cp_model  # noqa: F401, PLC0415 - what matters is that it was imported


def solve(
    instance: Instance,
    *,
    budget_s: float = 1.0,
    hint: tuple[Assignment, ...] | None = None,
    lower_bound_mills: int | None = None,
    tuned: bool = True,
) -> Outcome:
    """The cheapest plan, or the best found in ``budget_s`` (the making of the model included) with its bound.

    ``hint``: a feasible plan to start from. ``lower_bound_mills``: a bound known already. ``tuned``: ``False`` for the
    solver's own settings but one worker and a fixed seed, to compare with.
    """
    from ortools.sat.python import cp_model  # noqa: PLC0415 - slow to import, and few processes need it

    began = time.monotonic()
    model = _Model(instance, cp_model.CpModel())
    if hint is not None:
        model.hint(hint)
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = 1
    parameters.random_seed = 1
    if tuned:
        parameters.linearization_level = 2
        parameters.cp_model_presolve = model.size >= _PRESOLVE_FROM
    parameters.max_time_in_seconds = max(0.001, budget_s - (time.monotonic() - began))
    status = solver.solve(model.program)
    if status == cp_model.INFEASIBLE:
        return NoPlan()
    known = -instance.prohibitive_mills if lower_bound_mills is None else lower_bound_mills
    if status == cp_model.OPTIMAL:
        return solution(instance, model.plan(solver), METHOD)
    # The solver tells its bound as a float, which holds integers of this size exactly only up to 2^53.
    reached = solver.best_objective_bound
    bound = max(known, int(reached) - 1 - (int(abs(reached)) >> 52))
    if status == cp_model.FEASIBLE:
        return solution(instance, model.plan(solver), METHOD, lower_bound_mills=bound)
    return OnlyBound(max(known, -instance.prohibitive_mills))


class _Model:
    """The program. Variables: whether an option ships; units of a line from it (of a line that stays whole: whether it
    does); units left out; shipments beyond the first, and whether there are any; steps or the row of stepped freight.
    """

    def __init__(self, instance: Instance, program: "cp_model.CpModel") -> None:
        self.program = program
        self._instance = instance
        self._cost: list[cp_model.LinearExprT] = []
        self._opened = [program.new_bool_var("") for _ in instance.options]
        self._parts: dict[tuple[int, int], cp_model.IntVar] = {}
        self._left: dict[int, cp_model.IntVar] = {}
        self._steps: dict[int, cp_model.IntVar] = {}
        self._rows: dict[int, list[cp_model.IntVar]] = {}
        self._extra = program.new_int_var(0, len(instance.options), "")
        self._several = program.new_bool_var("")
        self._of_option: list[list[tuple[int, cp_model.IntVar]]] = [[] for _ in instance.options]
        self._add_lines()
        self._add_nodes()
        for option in range(len(instance.options)):
            self._add_shipment(option)
        self._add_order()
        program.minimize(sum(self._cost))

    @property
    def size(self) -> int:
        """How many pairs of line and option there are."""
        return len(self._parts)

    def plan(self, solver: "cp_model.CpSolver") -> tuple[Assignment, ...]:
        """The plan that the solver found."""
        return tuple(
            Assignment(line, option, units * self._each(line))
            for (line, option), variable in self._parts.items()
            if (units := solver.value(variable))
        )

    def hint(self, plan: tuple[Assignment, ...]) -> None:
        """Start from this plan. Every variable gets its value: a hint in part misleads the solver."""
        instance, hinted = self._instance, self.program.add_hint
        units = {(one.line, one.option): one.quantity for one in plan}
        weight = dict.fromkeys((one.option for one in plan), 0)
        for one in plan:
            weight[one.option] += one.quantity * instance.lines[one.line].unit_weight_g
        for place, variable in self._parts.items():
            hinted(variable, units.get(place, 0) // self._each(place[0]))
        for line, variable in self._left.items():
            hinted(variable, unfilled(instance, plan)[line] // self._each(line))
        for option, variable in enumerate(self._opened):
            hinted(variable, int(option in weight))
        for option, variable in self._steps.items():
            rate = instance.options[option].rate
            hinted(variable, -(-weight.get(option, 0) // rate.step_g) if isinstance(rate, Stepped) else 0)
        for option, row in self._rows.items():
            rate = instance.options[option].rate
            reached = [
                option in weight and isinstance(rate, Brackets) and weight[option] <= up_to_g
                for up_to_g, _ in (rate.rows if isinstance(rate, Brackets) else ())
            ]
            for number, variable in enumerate(row):
                hinted(variable, int(reached[number] and not any(reached[:number])))
        hinted(self._extra, max(0, len(weight) - 1))
        hinted(self._several, int(len(weight) > 1))

    def _each(self, line: int) -> int:
        """Units that a line's variables count in."""
        asked = self._instance.lines[line]
        return 1 if asked.splittable and not self._instance.ship_complete else asked.quantity

    def _add_lines(self) -> None:
        instance, program = self._instance, self.program
        for place, line in enumerate(instance.lines):
            each = self._each(place)
            whole = line.quantity // each
            parts = []
            for option in range(len(instance.options)):
                most = instance.reach(place, option) // each
                if not most:
                    continue
                part = program.new_bool_var("") if most == 1 else program.new_int_var(0, most, "")
                self._parts[place, option] = part
                self._of_option[option].append((place, part))
                parts.append(part)
                program.add(part <= most * self._opened[option])
                price = instance.unit_cost[place][option] or 0
                if isinstance(rate := instance.options[option].rate, Linear):
                    price += rate.mills_per_g * line.unit_weight_g
                self._cost.append(part * (price * each))
            if line.unfilled_mills is None:
                program.add(sum(parts) == whole)
            else:
                self._left[place] = program.new_int_var(0, whole, "")
                program.add(sum(parts) + self._left[place] == whole)
                self._cost.append(self._left[place] * (line.unfilled_mills * each))

    def _add_nodes(self) -> None:
        """What a node holds and can pick, where it could bind."""
        instance = self._instance
        held: dict[tuple[str, str], list[tuple[int, cp_model.IntVar]]] = {}
        picked: dict[str, list[tuple[int, cp_model.IntVar]]] = {}
        for (line, option), part in self._parts.items():
            node = instance.options[option].node
            held.setdefault((node, instance.lines[line].sku), []).append((self._each(line), part))
            picked.setdefault(node, []).append((self._each(line), part))
        wanted: dict[str, int] = {}
        for asked in instance.lines:
            wanted[asked.sku] = wanted.get(asked.sku, 0) + asked.quantity
        for (node, sku), parts in held.items():
            if wanted[sku] > (units := instance.stock[node, sku]):
                self.program.add(sum(each * part for each, part in parts) <= units)
        for node, parts in picked.items():
            if node in instance.capacity:
                self.program.add(sum(each * part for each, part in parts) <= instance.capacity[node])

    def _add_shipment(self, option: int) -> None:
        instance, program, opened = self._instance, self.program, self._opened[option]
        parts = self._of_option[option]
        program.add(sum(part for _, part in parts) >= opened)
        self._cost.append(opened * instance.options[option].fixed_mills)
        grams = sum(self._each(line) * instance.lines[line].unit_weight_g * part for line, part in parts)
        if (limit := instance.options[option].max_weight_g) is not None:
            program.add(grams <= limit * opened)
        match instance.options[option].rate:
            case Stepped(step_g=step_g, step_mills=step_mills):
                heaviest = sum(line.quantity * line.unit_weight_g for line in instance.lines)
                steps = self._steps[option] = program.new_int_var(0, -(-heaviest // step_g), "")
                program.add(step_g * steps >= grams)
                self._cost.append(steps * step_mills)
            case Brackets(rows=rows):
                row = self._rows[option] = [program.new_bool_var("") for _ in rows]
                above = [0, *(up_to_g + 1 for up_to_g, _ in rows[:-1])]
                program.add(sum(row) == opened)
                program.add(
                    grams <= sum(up_to_g * chosen for (up_to_g, _), chosen in zip(rows, row, strict=True))
                )
                program.add(grams >= sum(least * chosen for least, chosen in zip(above, row, strict=True)))
                self._cost += [mills * chosen for (_, mills), chosen in zip(rows, row, strict=True)]
            case Linear():
                pass
        if instance.min_split_value_minor:
            worth = sum(
                self._each(line) * instance.lines[line].unit_value_minor * part for line, part in parts
            )
            program.add(worth >= instance.min_split_value_minor * (opened + self._several - 1))

    def _add_order(self) -> None:
        instance, program = self._instance, self.program
        shipments = sum(self._opened)
        program.add(shipments <= instance.most_shipments)
        program.add(self._extra >= shipments - 1)
        program.add(self._extra <= len(instance.options) * self._several)
        self._cost.append(self._extra * instance.split_penalty_mills)
        if instance.ship_complete:
            program.add(shipments <= 1)
            for line, left in self._left.items():
                program.add(left == instance.lines[line].quantity // self._each(line) * (1 - shipments))
