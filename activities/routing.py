"""Queue ``oms-routing``: put the problem together, let the router decide, keep the plan with its reasons."""

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, cast

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.store import amendments, policies, promises, rerouting
from activities.store.carriers import CarrierExperience
from activities.store.intake import stored_draft
from activities.store.network import OpenStock, stock_of
from activities.store.plans import keep_plan, keep_started, kept_lines, plan_id, summary_of_attempt
from activities.store.problems import Wish, left_to_plan, problem_of, stock_rows
from activities.store.record import record
from activities.store.store import Store
from models.amendment import AmendmentRequest, AmendmentState, LineChange
from models.effects import RouteAnswer, RouteOrder
from models.journal import SYSTEM
from models.messages import SUBSTITUTION_REQUEST, AmendOrder
from models.money import Money
from models.order import OrderDraft
from models.plan import Plan, PlanSummary, ShipmentRef, Unfillable
from models.rerouting import SetPlan
from policies.cold_start import for_review
from policies.document import Policy, may_substitute
from policies.money import goods_of
from policies.routing.problem import DemandLine, RoutingProblem
from policies.routing.promising import taken
from policies.routing.rerouting import as_set
from policies.routing.router import Router
from policies.shortage import ShortagePolicy, part_ahead
from policies.substitution import said_of, substituted
from workflows import steps

# Of the step's twenty, for the plans that an order may need: as a person has set it, as it is, with substitutes, and in
# part.
_PLANNING_SECONDS = 12.0
# Each is routed, while the order's run waits.
_SUBSTITUTIONS_TRIED = 5
_INSTEAD = "instead:"


class RoutesElsewhere(Protocol):
    """A router whose work is done outside of this process, with an answer in any case ``within`` so many seconds."""

    async def route(self, problem: RoutingProblem, *, within: float) -> Plan | Unfillable:
        """See ``Router.route``."""
        ...


class ByHand(NamedTuple):
    """The problem in which all comes from where a person wants it from, and its plan."""

    problem: RoutingProblem
    plan: Plan


class RoutingActivities:
    """Route orders with one router, under the policy in force: with substitutes, or in parts, where that says so.

    A plain ``Router`` works on a thread of this process.
    """

    def __init__(self, store: Store, router: Router | RoutesElsewhere) -> None:
        self._store = store
        self._route = _awaited(router)
        self._carriers = CarrierExperience(store)

    @implements(steps.ROUTE_ORDER)
    @speaks_temporal
    async def route_order(self, effect: RouteOrder) -> RouteAnswer:
        """The plan of this attempt, made once, for what is not kept of earlier ones; or why none can be made.

        Of an order of which nothing is on its way yet it may be for a part.
        """
        carriers = await self._carriers.model()
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            known = await summary_of_attempt(session, effect.order_id, effect.attempt)
            if known is not None:
                return RouteAnswer(plan=known)
            await keep_started(session, effect.order_id, effect.kept)
            stored = await stored_draft(session, effect.order_id)
            draft = stored.draft
            demand = left_to_plan(draft, await kept_lines(session, effect.order_id, effect.kept))
            levels = await stock_of(session, {line.sku for line in demand}, effect.order_id)
            policy = await policies.active(session)
            notices = await rerouting.holding(session)
            problem = await problem_of(
                session,
                Wish.of_order(draft, demand, len(effect.kept)),
                levels,
                policy,
                order_id=effect.order_id,
                business_now=effect.business_now,
                carriers=carriers,
                avoid=effect.avoid,
            )
            promised = await self._promised(session, effect, draft, problem)
            wish = (
                None
                if effect.set_plan is None
                else await rerouting.set_plan(session, effect.set_plan, effect.order_id)
            )
        until = time.monotonic() + _PLANNING_SECONDS
        answer: Plan | Unfillable
        by_hand = None if wish is None else await self._by_hand(problem, wish, until)
        if isinstance(by_hand, ByHand):
            problem, answer = by_hand
        elif isinstance(promised, promises.Taken):
            answer, problem = taken(*promised, effect.order_id, demand)
            answer = answer.model_copy(update={"promise": draft.promise_id})
        else:
            answer = await self._route(problem, until)
        if isinstance(answer, Unfillable) and effect.substitute and answer.missing:
            replaced = await self._substitute(effect, problem, answer, draft, policy, until=until)
            if isinstance(replaced, AmendOrder):
                return RouteAnswer(unfillable=answer.reasons, substitution=replaced)
            answer = answer.model_copy(update={"reasons": (*answer.reasons, *replaced)})
        if isinstance(answer, Unfillable) and not effect.kept and not draft.ship_complete:
            problem, answer = await self._route_part(
                problem, answer, levels, draft, policy.shortage, until=until
            )
        if isinstance(answer, Unfillable):
            async with self._store.transaction() as session:
                await rerouting.still_hold(session, notices)
            # What it is planned without comes first: of many reasons the last are cut.
            return RouteAnswer(unfillable=(*problem.notes, *answer.reasons))
        plan = _numbered(answer, effect.first_number).model_copy(
            update={
                "policy": problem.policy,
                "reasons": (
                    *answer.reasons,
                    *([promised] if isinstance(promised, str) else []),
                    *(by_hand if isinstance(by_hand, list) else []),
                ),
            }
        )
        shared = effect.outstanding or Money(minor=draft.totals.total_minor, currency=draft.currency)
        summary = _summary(plan_id(effect.order_id, effect.attempt), plan, draft, shared).model_copy(
            update={
                "limits": policy.limits_for(for_review(problem, plan.shipments)),
                "reroutes": policy.max_reroutes,
                "set_by": plan.set_by,
            }
        )
        async with self._store.transaction() as session:
            await rerouting.still_hold(session, notices)
            return RouteAnswer(
                plan=await keep_plan(
                    session,
                    effect.order_id,
                    effect.attempt,
                    plan,
                    summary,
                    document_version=stored.version,
                    problem=problem,
                )
            )

    async def _promised(
        self, session: AsyncSession, effect: RouteOrder, draft: OrderDraft, problem: RoutingProblem
    ) -> promises.Taken | str | None:
        """The plan that was promised before there was an order, or why it is not to be had; None: nothing was.

        Only the first plan of an order is that one: if its stock is gone, the next one is made anew.
        """
        if draft.promise_id is None or effect.kept:
            return None
        if effect.attempt > 1:
            return f"promise {draft.promise_id} is not kept to: it could not be reserved, or the order was planned anew"
        found = await promises.take(session, draft.promise_id, problem, draft.channel)
        return f"promise {draft.promise_id} is not kept to: {found}" if isinstance(found, str) else found

    async def _by_hand(self, problem: RoutingProblem, wish: SetPlan, until: float) -> ByHand | list[str]:
        """The plan as a person has set it, and its problem; or why it is not made, so that the router plans."""
        restricted = as_set(problem, wish)
        if not isinstance(restricted, RoutingProblem):
            return [f"the plan that {wish.actor} has set is not made: {'; '.join(restricted)}"[:1000]]
        plan = await self._route(restricted, until)
        if isinstance(plan, Unfillable):
            return [f"the plan that {wish.actor} has set is not made: {'; '.join(plan.reasons)}"[:1000]]
        own = await self._route(problem, until)
        instead = own.cost if isinstance(own, Plan) else "nothing, for it finds none"
        return ByHand(
            restricted,
            plan.model_copy(
                update={
                    "set_by": wish.actor,
                    "reasons": (
                        f"set by hand by {wish.actor}: {wish.reason}; the router's own would cost {instead}",
                        *plan.reasons,
                    ),
                }
            ),
        )

    async def _substitute(
        self,
        effect: RouteOrder,
        problem: RoutingProblem,
        whole: Unfillable,
        draft: OrderDraft,
        policy: Policy,
        *,
        until: float,
    ) -> AmendOrder | tuple[str, ...]:
        """An amendment that replaces what is missing, stored for the order's run to apply; or why there is none."""
        if not policy.substitutes or not may_substitute(policy.shortage, draft.allow_substitutes):
            return ()
        request_id = f"{SUBSTITUTION_REQUEST}{effect.attempt}"
        async with self._store.transaction() as session:
            known = await amendments.proposed(session, effect.order_id, request_id)
            if known is None:
                others = {sku for line in whole.missing for sku in policy.substitutes.get(line.sku, ())}
                levels = await stock_of(session, others, effect.order_id) if others else []
                waiting = await amendments.any_waits(session, effect.order_id)
        if known is not None:
            ours = known.view.actor == SYSTEM and known.view.state is AmendmentState.PROPOSED
            return known.message(known.view.reason[:200]) if ours else ()
        if waiting:
            return ("somebody else has asked for a change of the order",)
        units = _supply(levels, problem)
        why_not: list[str] = []
        ruled_out: set[str] = set()
        while len(why_not) < _SUBSTITUTIONS_TRIED and (
            changes := substituted(draft.lines, whole.missing, policy.substitutes, units, ruled_out)
        ):
            lines = _replaced(problem.lines, changes)
            instead = problem.model_copy(
                update={"lines": lines, "stock": (*problem.stock, *stock_rows(levels, lines))}
            )
            answer = await self._route(instead, until)
            if isinstance(answer, Plan):
                found = await self._proposed(effect.order_id, draft, policy, request_id, changes)
                if isinstance(found, AmendOrder):
                    return found
                why_not += found
            else:
                why_not.append(f"{said_of(changes)} cannot be sent either")
            ruled_out |= _at_fault(answer, lines)
        return tuple(why_not) or (f"{policy.label} has no substitutes that are there for all of it",)

    async def _proposed(
        self,
        order_id: str,
        draft: OrderDraft,
        policy: Policy,
        request_id: str,
        changes: tuple[LineChange, ...],
    ) -> AmendOrder | tuple[str, ...]:
        wish = AmendmentRequest(
            request_id=request_id,
            actor=SYSTEM,
            reason=f"{said_of(changes)}, which is short ({policy.label})"[:1000],
            lines=changes,
        )
        async with self._store.transaction() as session:
            proposal = await amendments.propose(session, order_id, wish)
            if isinstance(proposal, amendments.Proposal) and proposal.total.minor > draft.totals.total_minor:
                # Nobody pays more for what was not ordered; charges that follow the goods may be rounded otherwise.
                await session.rollback()
                return (f"{said_of(changes)} would make the order dearer",)
        if isinstance(proposal, amendments.Proposal):
            return proposal.message(proposal.view.reason[:200])
        return tuple(f"{said_of(changes)} cannot be had: {problem.message}" for problem in proposal)

    async def _route_part(
        self,
        problem: RoutingProblem,
        whole: Unfillable,
        levels: Sequence[OpenStock],
        draft: OrderDraft,
        shortage: ShortagePolicy,
        *,
        until: float,
    ) -> tuple[RoutingProblem, Plan | Unfillable]:
        """A plan for what is there of an order that is ``Unfillable`` as a whole, if that may go ahead; for what."""
        prices = {line.line_id: line.unit_price_minor for line in draft.lines}
        part = part_ahead(problem.lines, whole.missing, prices, shortage, draft.allow_partial)
        if not part:
            return problem, whole
        ahead = problem.model_copy(update={"lines": part, "stock": stock_rows(levels, part)})
        plan = await self._route(ahead, until)
        if isinstance(plan, Unfillable):
            return problem, whole
        return ahead, plan.model_copy(
            update={
                "left_out": whole.missing,
                "reasons": (*plan.reasons, f"a part goes ahead ({shortage.version})", *whole.reasons),
            }
        )


def _awaited(
    router: Router | RoutesElsewhere,
) -> Callable[[RoutingProblem, float], Awaitable[Plan | Unfillable]]:
    """The router as it is asked here: for a problem, until a moment of the monotonic clock."""
    if inspect.iscoroutinefunction(router.route):
        elsewhere = cast(RoutesElsewhere, router)
        return lambda problem, until: elsewhere.route(problem, within=max(until - time.monotonic(), 0.0))
    here = cast(Router, router)
    # On a thread: a long calculation must not keep this process from answering the engine.
    return lambda problem, _: asyncio.to_thread(here.route, problem)


def _supply(levels: Sequence[OpenStock], problem: RoutingProblem) -> Counter[str]:
    """Units of each SKU that the order can be promised, at all nodes together that it may come from."""
    open_nodes = {node.node_id for node in problem.within_rules().nodes if node.active}
    units = Counter[str]()
    for level in levels:
        units[level.sku] += level.available if level.node in open_nodes else 0
    for level in levels:
        if level.shared is not None:
            units[level.sku] = min(units[level.sku], max(level.shared, 0))
    return units


def _replaced(lines: Sequence[DemandLine], changes: Sequence[LineChange]) -> tuple[DemandLine, ...]:
    """The demand with its substitutes; what is kept of a line by parcels that go on is no part of it."""
    fewer = {change.line_id: change for change in changes if change.line_id is not None}
    instead = [change for change in changes if change.sku is not None]
    units = dict(zip(fewer, (change.quantity for change in instead), strict=True))
    left = [
        line.model_copy(update={"quantity": line.quantity - units.get(line.line_id, 0)})
        for line in lines
        if line.quantity > units.get(line.line_id, 0)
    ]
    return (
        *left,
        *(
            DemandLine(line_id=f"{_INSTEAD}{number}", sku=change.sku or "", quantity=change.quantity)
            for number, change in enumerate(instead)
        ),
    )


def _at_fault(answer: Plan | Unfillable, lines: Sequence[DemandLine]) -> set[str]:
    """The substitutes among ``lines`` that cannot be had: those that the router misses, or where it names none, all."""
    instead = {line.line_id: line.sku for line in lines if line.line_id.startswith(_INSTEAD)}
    missing = answer.missing if isinstance(answer, Unfillable) else ()
    return {instead[line.line_id] for line in missing if line.line_id in instead} or set(instead.values())


def _numbered(plan: Plan, first: int) -> Plan:
    """The plan with its shipments counted from ``first``; routers count from 1."""
    return plan.model_copy(
        update={
            "shipments": tuple(
                shipment.model_copy(update={"number": number})
                for number, shipment in enumerate(plan.shipments, start=first)
            )
        }
    )


def _summary(identifier: str, plan: Plan, draft: OrderDraft, shared: Money) -> PlanSummary:
    goods = goods_of(plan, {line.line_id: line.unit_price_minor for line in draft.lines})
    # Postage, discounts and taxes follow the goods: each shipment is charged its share of the total, or of what other
    # shipments have left of it; and what is left out keeps its own.
    amounts = shared.allocate(goods)
    return PlanSummary(
        plan_id=identifier,
        shipments=tuple(
            ShipmentRef(
                number=shipment.number,
                node=shipment.node,
                carrier=shipment.carrier,
                service=shipment.service,
                units=sum(line.quantity for line in shipment.lines),
                amount=amount,
                promised_at=shipment.promised_at,
                held_until=shipment.held_until,
            )
            for shipment, amount in zip(plan.shipments, amounts, strict=False)
        ),
        cost=plan.cost,
        goods_value=Money(minor=sum(goods[: len(plan.shipments)]), currency=draft.currency),
        promised_at=plan.promised_at,
        router=plan.router,
        left_out=sum(line.quantity for line in plan.left_out),
    )
