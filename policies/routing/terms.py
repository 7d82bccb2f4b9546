"""What the cost of a plan consists of, in words and amounts."""

from models.money import Money
from models.plan import Plan
from models.routing import CostTerm


def terms_of(plan: Plan) -> tuple[CostTerm, ...]:
    """What the plan's objective consists of."""
    currency = plan.cost.currency
    terms = [
        CostTerm(term="handling", amount=Money.total((one.handling for one in plan.shipments), currency)),
        CostTerm(term="freight", amount=Money.total((one.freight for one in plan.shipments), currency)),
        CostTerm(term="split penalty", amount=plan.split_penalty),
    ]
    if plan.late is not None:
        terms.append(CostTerm(term="days late", amount=plan.late))
    if plan.late_risk is not None:
        terms.append(CostTerm(term="risk of being late", amount=plan.late_risk))
    if plan.look_ahead is not None:
        terms.append(CostTerm(term="look-ahead", amount=plan.look_ahead))
    if plan.markdown is not None:
        terms.append(CostTerm(term="markdown credit", amount=plan.markdown))
    return tuple(terms)
