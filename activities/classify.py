"""Queue ``oms-classify``: apply the risk rules, and compare a business's prices with those agreed.

Models will advise here; rules and thresholds decide.
"""

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.store import policies
from activities.store.intake import stored_draft
from activities.store.prices import agreed_for_order
from activities.store.record import record
from activities.store.store import Store
from models.effects import AssessOrder, RiskAssessment
from policies.classification import classify
from policies.pricing import check_prices, with_prices
from policies.risk import assess, features_of
from workflows import steps


class ClassifyActivities:
    """Assess orders under the policy in force."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @implements(steps.ASSESS_ORDER)
    @speaks_temporal
    async def assess_order(self, effect: AssessOrder) -> RiskAssessment:
        """The rules' decision on the stored document, with every reason."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            draft = (await stored_draft(session, effect.order_id)).draft
            agreed = await agreed_for_order(session, draft)
            policy = await policies.active(session)
        customer_type, _ = classify(draft)
        assessed = assess(features_of(draft, customer_type), policy.risk)
        return with_prices(assessed, check_prices(draft, agreed, policy.pricing), policy.pricing)
