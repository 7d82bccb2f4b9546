"""Why a plan, what if, and again: answers from what the router looked at when it decided. Nothing acts on them."""

from models.errors import Refused
from models.plan import Plan, Unfillable
from models.routing import RouteQuestion
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.router import CheapestNodeRouter, Router
from policies.routing.weights import RoutingWeights


def what_if(problem: RoutingProblem, question: RouteQuestion) -> Plan | Unfillable:
    """The plan for ``problem`` as ``question`` would have it. Raises ``Refused`` for a node that it does not know."""
    changes: dict[str, object] = {}
    for name in (question.force, question.without):
        if name is not None and name not in {node.node_id for node in problem.nodes}:
            known = ", ".join(sorted(node.node_id for node in problem.nodes))
            raise Refused(f"{name} is no node that the router knew then: {known}")
    if question.force is not None or question.without is not None:
        changes["nodes"] = tuple(
            node
            for node in problem.nodes
            if node.node_id != question.without and question.force in (None, node.node_id)
        )
        if question.force is not None:
            # Whoever forces a node asks neither when its turn would come nor whether the policy allows it.
            changes |= {"sequence": (), "barred": ()}
    if question.split_penalty_minor is not None:
        changes["split_penalty_minor"] = question.split_penalty_minor
    if question.late_day_minor is not None:
        weights = problem.weights or RoutingWeights()
        changes["weights"] = weights.model_copy(update={"late_day_minor": question.late_day_minor})
    return ExactRouter().route(problem.model_copy(update=changes))


def differences(plan: Plan, problem: RoutingProblem) -> list[str]:
    """In what the router of ``plan`` decides otherwise today, of the same problem; empty when it decides the same.

    Raises ``Refused`` for a router that is not there any more.
    """
    router = _ROUTERS.get(plan.router)
    if router is None:
        raise Refused(f"the plan was made by {plan.router}, which this version does not have any more")
    again = router.route(problem)
    if isinstance(again, Unfillable):
        return ["there is no plan any more: " + "; ".join(again.reasons)]
    return [
        f"{name}: {was} then, {now} now"
        for name, was, now in (
            ("shipments", *(_numbered_from_one(one) for one in (plan, again))),
            ("cost", plan.cost, again.cost),
            ("promised", plan.promised_at, again.promised_at),
            ("late", plan.late, again.late),
            ("risk of being late", plan.late_risk, again.late_risk),
            ("look-ahead", plan.look_ahead, again.look_ahead),
            ("markdown credit", plan.markdown, again.markdown),
            ("proof", plan.proof, again.proof),
            ("alternatives", plan.alternatives, again.alternatives),
        )
        if was != now
    ]


_ROUTERS: dict[str, Router] = {router.name: router for router in (ExactRouter(), CheapestNodeRouter())}


def _numbered_from_one(plan: Plan) -> list[object]:
    # A plan of what is left is numbered on from the shipments that went on.
    return [
        shipment.model_copy(update={"number": number})
        for number, shipment in enumerate(plan.shipments, start=1)
    ]
