"""What a problem is made of when an order is routed, and that it is kept with the plan."""

from activities.routing import RoutingActivities
from activities.store.network import StockLevel, load_centroids, load_network, seed_stock
from activities.store.plans import decision
from activities.store.store import Store
from models.effects import RouteOrder
from models.network import Centroid, Point
from policies.routing.exact import ExactRouter
from policies.routing.questions import differences
from tests.activities.running import run
from tests.builders import NOON, a_draft, a_network, accepted, skus_of


async def test_a_plan_says_how_far_its_parcels_go_and_keeps_no_address(store: Store) -> None:
    draft = a_draft(quantity=1)
    postcode = draft.ship_to.postcode
    assert postcode
    order_id = await accepted(store, draft)
    (sku,) = skus_of(draft)
    plain = a_network("north")
    (node,) = plain.nodes
    somewhere = node.model_copy(update={"latitude": 53.8, "longitude": -1.55})
    async with store.transaction() as session:
        await load_network(session, plain.model_copy(update={"nodes": (somewhere,)}))
        await load_centroids(
            session,
            [
                Centroid(country="GB", prefix="", latitude=54, longitude=-2),
                Centroid(country="GB", prefix=postcode[:2], latitude=51.50735, longitude=-0.12776),
            ],
        )
        await seed_stock(session, [StockLevel(node="north", sku=sku, on_hand=5)])
    routing = RoutingActivities(store, ExactRouter())
    answer = await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    assert answer.plan is not None, answer.unfillable
    async with store.transaction() as session:
        made = await decision(session, order_id)
        await load_centroids(session, [])
    assert [one.distance_km for one in made.plan.shipments] == [272]
    assert made.problem is not None
    assert made.problem.destination == Point(latitude=51.51, longitude=-0.13)
    assert differences(made.plan, made.problem) == []
