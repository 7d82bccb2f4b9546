"""How far an order goes, and what its postcode says of where that is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.network import Point
from models.plan import Plan
from policies.routing.distance import beginnings, great_circle_km, written_alike
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.questions import differences
from policies.routing.router import CheapestNodeRouter, Router
from tests.policies.test_router import a_node, a_problem, routed

LONDON = Point(latitude=51.5074, longitude=-0.1278)
BERLIN = Point(latitude=52.52, longitude=13.405)
SYDNEY = Point(latitude=-33.8688, longitude=151.2093)


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        (LONDON, LONDON, 0),
        (LONDON, BERLIN, 932),
        (LONDON, SYDNEY, 16_994),
        (Point(latitude=0, longitude=179.5), Point(latitude=0, longitude=-179.5), 111),
        (Point(latitude=90, longitude=0), Point(latitude=-90, longitude=77), 20_015),
        (Point(latitude=0, longitude=0), Point(latitude=0, longitude=180), 20_015),
    ],
)
def test_distances_are_those_over_the_ground(one: Point, other: Point, km: int) -> None:
    assert great_circle_km(one, other) == km


points = st.builds(Point, latitude=st.floats(-90, 90), longitude=st.floats(-180, 180))


@given(points, points)
def test_the_way_back_is_as_long_and_none_goes_round_half_the_earth(one: Point, other: Point) -> None:
    assert 0 <= great_circle_km(one, other) == great_circle_km(other, one) <= 20_016
    assert great_circle_km(one, one) == 0


@pytest.mark.parametrize(
    ("country", "written", "compared"),
    [
        ("GB", "l11aa", "L1 1AA"),
        ("GB", " SW1A  1aa ", "SW1A 1AA"),
        ("GB", "sw1a", "SW1A"),
        ("GB", "SW1A-1", "SW1A 1"),
        ("JE", "JE2 3AB", "JE2 3AB"),
        ("DE", "D-50 667", "50667"),
        ("SE", "111 22", "11122"),
        ("NL", "1012 ab", "1012AB"),
        ("IE", "D02 AF30", "D02AF30"),
        ("PT", "1000-001", "1000001"),
        ("GB", "", ""),
        ("US", "?", ""),
    ],
)
def test_postcodes_are_compared_however_they_are_written(country: str, written: str, compared: str) -> None:
    assert written_alike(country, written) == compared
    assert written_alike(country, compared) == compared


@pytest.mark.parametrize(
    ("country", "postcode", "expected"),
    [
        ("GB", "E14 5AB", ("E14 5AB", "E14 5A", "E14 5", "E14", "E", "")),
        ("GB", "L1 1AA", ("L1 1AA", "L1 1A", "L1 1", "L1", "L", "")),
        ("DE", "50667", ("50667", "5066", "506", "50", "5", "")),
        ("DE", "", ("",)),
    ],
)
def test_the_longest_beginning_comes_first_and_no_british_number_is_cut(
    country: str, postcode: str, expected: tuple[str, ...]
) -> None:
    assert beginnings(country, postcode) == expected


@given(st.sampled_from(("GB", "DE", "US")), st.text(max_size=20))
def test_whatever_is_written_as_a_postcode_begins_with_itself_and_ends_with_its_country(
    country: str, text: str
) -> None:
    found = beginnings(country, text)
    assert found[0] == written_alike(country, text)
    assert found[-1] == ""
    assert len(set(found)) == len(found)


both = pytest.mark.parametrize(
    "router", (CheapestNodeRouter(), ExactRouter()), ids=lambda router: router.name
)


def an_order() -> RoutingProblem:
    nodes = (
        a_node("n1").model_copy(update={"latitude": LONDON.latitude, "longitude": LONDON.longitude}),
        a_node("n2"),
    )
    return a_problem({"a": 3}, {("n1", "a"): 2, ("n2", "a"): 1}, nodes=nodes, destination=BERLIN)


@both
def test_a_parcel_says_how_far_it_goes_where_that_is_known(router: Router) -> None:
    plan = routed(router, an_order())
    assert {one.node: one.distance_km for one in plan.shipments} == {"n1": 932, "n2": None}
    stored = RoutingProblem.model_validate_json(an_order().model_dump_json())
    assert differences(Plan.model_validate_json(plan.model_dump_json()), stored) == []


@both
def test_distance_changes_nothing_of_what_is_decided(router: Router) -> None:
    plan = routed(router, an_order())
    without = routed(router, an_order().model_copy(update={"destination": None}))
    assert {one.distance_km for one in without.shipments} == {None}
    assert without == plan.model_copy(
        update={"shipments": tuple(one.model_copy(update={"distance_km": None}) for one in plan.shipments)}
    )
