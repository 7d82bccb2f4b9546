"""What stock is worth to orders to come: by country, by the network's rates, from what was ordered lately."""

from models.network import CarrierService, Network, ServiceZone
from policies.routing.forecast import LEAST_LINES, MOST_COUNTRIES, Forecast, Ordered, Past
from tests.policies.test_router import a_node


def a_service(name: str, origin: str, destinations: tuple[str, ...], base: int) -> CarrierService:
    zone = ServiceZone(
        origin=origin, destinations=destinations, base_minor=base, per_kg_minor=10, transit_days=2
    )
    return CarrierService(carrier="post", service=name, max_weight_g=30_000, zones=(zone,))


# Both nodes send to Britain, the Irish one a little cheaper; to Ireland only the Irish one.
NETWORK = Network(
    currency="GBP",
    unit_weight_g=100,
    split_penalty_minor=400,
    processing_days=1,
    nodes=(a_node("gb", 100), a_node("ie", 50, country="IE")),
    services=(a_service("home", "GB", ("GB",), 300), a_service("isles", "IE", ("IE", "GB"), 300)),
)


def prices(
    ordered: list[Ordered], stock: dict[tuple[str, str], int], days: int = 28, span: float = 28
) -> dict[tuple[str, str], int]:
    past = Past(span, 30, 30, ordered)
    forecast = Forecast(NETWORK, past, stock, dict.fromkeys({sku for sku, _ in stock}, days))
    return {(one.sku, one.node): one.mills for block in forecast.blocks() for one in block}


ORDERED = [Ordered("a", "GB", 10, 10), Ordered("a", "IE", 20, 20)]
STOCK = {("a", "gb"): 30, ("a", "ie"): 12}


def test_what_alone_can_serve_a_country_is_worth_what_its_customers_would_go_without() -> None:
    found = prices(ORDERED, STOCK)
    # 50 cheaper than the British one, but the last of it is what Ireland can get.
    assert found["a", "ie"] > 300_000
    assert ("a", "gb") not in found


def test_what_lasts_until_more_comes_is_worth_nothing() -> None:
    assert prices(ORDERED, STOCK, days=7) == {}
    assert prices(ORDERED, {("a", "gb"): 30, ("a", "ie"): 40}) == {}


def test_the_same_in_fewer_days_is_more_demand() -> None:
    assert prices(ORDERED, {("a", "gb"): 30, ("a", "ie"): 40}, span=7)["a", "ie"] > 0


def test_what_is_ordered_too_seldom_or_does_not_lie_anywhere_has_no_price() -> None:
    seldom = [Ordered("a", "IE", LEAST_LINES - 1, 500)]
    past = Past(28, 30, 30, [*seldom, Ordered("b", "IE", LEAST_LINES, 500)])
    assert Forecast(NETWORK, past, {("a", "ie"): 1}, {"a": 28}).skus == ()
    assert prices(seldom, {("a", "ie"): 1}) == {}


def test_countries_beyond_the_first_are_left_out_and_counted() -> None:
    many = [Ordered("a", f"X{number}", 1, 1 + number) for number in range(MOST_COUNTRIES + 3)]
    forecast = Forecast(NETWORK, Past(28, 30, 30, many), {("a", "ie"): 5}, {"a": 28})
    assert forecast.countries_left_out == 3
    assert "X0" not in forecast.countries


def test_a_network_that_sends_nowhere_prices_nothing() -> None:
    nowhere = NETWORK.model_copy(update={"services": ()})
    assert not list(Forecast(nowhere, Past(28, 30, 30, ORDERED), STOCK, {"a": 28}).blocks())


def test_many_skus_come_in_several_blocks_with_the_same_prices() -> None:
    import policies.routing.forecast as module

    skus = [f"s{number}" for number in range(25)]
    ordered = [Ordered(sku, one.country, one.lines, one.units) for sku in skus for one in ORDERED]
    stock = {(sku, node): units for sku in skus for (_, node), units in STOCK.items()}
    whole = Forecast(NETWORK, Past(28, 30, 30, ordered), stock, dict.fromkeys(skus, 28))
    (block,) = whole.blocks()
    before, module._AT_ONCE = module._AT_ONCE, 40
    try:
        parts = list(whole.blocks())
    finally:
        module._AT_ONCE = before
    assert len(parts) == 3
    assert sorted(one for part in parts for one in part) == sorted(block)
