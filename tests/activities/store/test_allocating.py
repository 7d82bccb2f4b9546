"""What belongs to a channel or a tier: protected units, limits and caps, also when everybody comes at once."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text

from activities.store import outbox, stock
from activities.store.allocating import allocate, allocation, tell_of_time
from activities.store.availability import availability
from activities.store.network import stock_of
from activities.store.reserving import Reserver
from activities.store.stock_books import reconcile
from activities.store.store import Store
from models.allocation import AllocationPolicy, AllocationState, AllocationView
from models.errors import Conflict, InvalidDocument
from models.outbox import Topic
from tests.activities.store.test_stock import a_claim, reserve
from tests.builders import a_draft, accepted, new_number, stocked

SKU = "A"
OWN = {"channels": ["web"]}
NOW = datetime.now(UTC)


async def ruled(store: Store, *rules: dict[str, Any], **policy: Any) -> AllocationView:
    document = {"document_id": f"rules-{new_number()}", "actor": "jo"} | policy
    async with store.transaction() as session:
        return await allocate(
            session,
            AllocationPolicy.model_validate(
                document
                | {"rules": [{"rule_id": f"r{n}", "sku": SKU} | rule for n, rule in enumerate(rules)]}
            ),
        )


async def takes(store: Store, channel: str, units: int, node: str = "north") -> bool:
    """Whether an order of ``channel`` gets its units."""
    return (await reserve(store, a_claim((node, SKU, units), order_id=f"{channel}:{new_number()}"))).reserved


async def open_to(store: Store, channel: str, node: str = "north") -> int:
    async with store.transaction() as session:
        found = await stock_of(session, [SKU], f"{channel}:1")
    return next(level.available for level in found if level.node == node)


async def used(store: Store) -> list[int]:
    async with store.transaction() as session:
        view = await allocation(session)
    return [sum(use.used for use in state.uses) for state in view.rules]


async def books_agree(store: Store) -> bool:
    async with store.transaction() as session:
        account = await reconcile(session)
    return {found.trouble.value for found in account.differences} <= {"held_for_nobody"}


# --- protected units ---
async def test_protected_units_are_left_alone_by_everybody_else(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10})
    await ruled(fresh_store, OWN | {"kind": "protect", "node": "north", "units": 4})
    assert (await open_to(fresh_store, "market"), await open_to(fresh_store, "web")) == (6, 10)
    assert not await takes(fresh_store, "market", 7)
    assert await takes(fresh_store, "market", 6)
    assert not await takes(fresh_store, "market", 1)
    assert await takes(fresh_store, "web", 4)
    assert not await takes(fresh_store, "web", 1)


async def test_what_the_group_holds_counts_as_protected(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10})
    await ruled(fresh_store, OWN | {"kind": "protect", "node": "*", "units": 4})
    assert await takes(fresh_store, "web", 3)
    # Of four for the group it holds three; of the seven that are free one is kept.
    assert await open_to(fresh_store, "market") == 6
    assert await takes(fresh_store, "web", 2)
    assert await open_to(fresh_store, "market") == 5


async def test_a_share_that_is_protected_is_rounded_up_and_follows_what_lies_there(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={SKU: 10})
    await ruled(fresh_store, OWN | {"kind": "protect", "node": "north", "percent": 25})
    assert await open_to(fresh_store, "market") == 7
    async with fresh_store.transaction() as session:
        await session.execute(text("UPDATE stock SET on_hand = 101"))
    assert await open_to(fresh_store, "market") == 101 - 26


async def test_protected_over_all_nodes_others_may_take_from_any_until_the_rest_is_needed(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={SKU: 5}, south={SKU: 5})
    await ruled(fresh_store, OWN | {"kind": "protect", "units": 4})
    assert await open_to(fresh_store, "market", "north") == 5
    assert await takes(fresh_store, "market", 5, "north")
    assert await open_to(fresh_store, "market", "south") == 1
    assert not await takes(fresh_store, "market", 2, "south")
    assert await takes(fresh_store, "web", 4, "south")


async def test_what_two_groups_are_protected_is_added_up(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10})
    await ruled(
        fresh_store,
        OWN | {"kind": "protect", "node": "north", "units": 4},
        {"kind": "protect", "node": "north", "units": 3, "channels": ["shop"]},
    )
    assert [await open_to(fresh_store, channel) for channel in ("web", "shop", "market")] == [7, 6, 3]


async def test_a_tier_is_a_group_as_well(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 5})
    await ruled(fresh_store, {"kind": "protect", "node": "north", "units": 5, "tiers": ["gold"]})
    golden = await accepted(fresh_store, a_draft(customer_tier="gold"))
    plain = await accepted(fresh_store, a_draft())
    assert not (await reserve(fresh_store, a_claim(("north", SKU, 1), order_id=plain))).reserved
    assert (await reserve(fresh_store, a_claim(("north", SKU, 5), order_id=golden))).reserved
    assert await used(fresh_store) == [5]


# --- limits and caps ---
async def test_a_channel_holds_at_most_its_limit_and_gets_it_anew_when_goods_leave(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={SKU: 10}, south={SKU: 10})
    await ruled(fresh_store, {"kind": "limit", "channels": ["market"], "units": 3})
    claim = a_claim(("north", SKU, 2), order_id=f"market:{new_number()}")
    assert (await reserve(fresh_store, claim)).reserved
    assert (await open_to(fresh_store, "market", "south"), await open_to(fresh_store, "web")) == (1, 8)
    assert not await takes(fresh_store, "market", 2, "south")
    async with fresh_store.transaction() as session:
        await stock.consume(session, claim.wanted[0].shipment_id)
    assert await open_to(fresh_store, "market", "south") == 3
    assert await books_agree(fresh_store)


async def test_a_cap_counts_what_was_sold_until_it_is_given_back(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 100})
    await ruled(fresh_store, {"kind": "cap", "units": 5})
    shipped, freed = (
        a_claim(("north", SKU, 2), order_id=f"web:{new_number()}"),
        a_claim(("north", SKU, 3), order_id=f"market:{new_number()}"),
    )
    assert (await reserve(fresh_store, shipped)).reserved
    assert (await reserve(fresh_store, freed)).reserved
    assert not await takes(fresh_store, "web", 1)
    async with fresh_store.transaction() as session:
        await stock.consume(session, shipped.wanted[0].shipment_id)
    assert not await takes(fresh_store, "web", 1)
    async with fresh_store.transaction() as session:
        await stock.release(session, key=freed.key, order_id=freed.order_id)
    assert await used(fresh_store) == [2]
    assert await takes(fresh_store, "web", 3)
    assert not await takes(fresh_store, "web", 1)
    assert await books_agree(fresh_store)


async def test_a_cap_does_not_count_what_was_sold_before_its_time(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 100})
    assert await takes(fresh_store, "web", 50)
    await ruled(
        fresh_store,
        {"kind": "cap", "units": 5, "valid_from": datetime.now(UTC).isoformat()},
        {"kind": "cap", "units": 0, "valid_from": (NOW + timedelta(days=1)).isoformat()},
        {"kind": "cap", "units": 0, "valid_until": (NOW - timedelta(days=1)).isoformat()},
    )
    assert await used(fresh_store) == [0, 0, 0]
    assert await open_to(fresh_store, "web") == 5
    assert await takes(fresh_store, "web", 5)
    assert await used(fresh_store) == [5, 0, 0]


async def test_a_limit_over_all_nodes_holds_for_one_order_from_two_of_them(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10}, south={SKU: 10})
    await ruled(fresh_store, {"kind": "limit", "channels": ["market"], "units": 12})
    order = f"market:{new_number()}"
    answer = await reserve(fresh_store, a_claim(("north", SKU, 10), ("south", SKU, 3), order_id=order))
    assert [(short.node, short.requested, short.available) for short in answer.shortages] == [("south", 3, 2)]
    assert (
        await reserve(fresh_store, a_claim(("north", SKU, 10), ("south", SKU, 2), order_id=order))
    ).reserved


async def test_an_order_that_reserves_anew_does_not_stand_in_its_own_way(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10}, south={SKU: 10})
    await ruled(fresh_store, {"kind": "cap", "channels": ["market"], "units": 5})
    order = f"market:{new_number()}"
    assert (await reserve(fresh_store, a_claim(("north", SKU, 5), order_id=order))).reserved
    too_much = await reserve(fresh_store, a_claim(("south", SKU, 6), order_id=order, attempt=2))
    assert [short.available for short in too_much.shortages] == [5]
    # What it had it has still.
    assert (await used(fresh_store), await open_to(fresh_store, "web", "north")) == ([5], 5)
    assert (await reserve(fresh_store, a_claim(("south", SKU, 5), order_id=order, attempt=2))).reserved
    assert (await used(fresh_store), await open_to(fresh_store, "web", "north")) == ([5], 10)
    assert await books_agree(fresh_store)


async def test_a_hundred_orders_at_two_nodes_get_what_the_cap_allows_and_no_more(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 1000, "B": 1000}, south={SKU: 1000, "B": 1000})
    await ruled(
        fresh_store,
        {"kind": "cap", "channels": ["market"], "units": 37},
        {"kind": "protect", "sku": "B", "units": 1980, "channels": ["web"]},
        {"kind": "limit", "sku": None, "node": "*", "percent": 50},
    )
    reservers = [Reserver(fresh_store) for _ in range(4)]
    chance = random.Random(7)

    async def come(n: int) -> int:
        rows = [(node, sku, 1) for node in ("north", "south") for sku in (SKU, "B")]
        chance.shuffle(rows)
        claim = a_claim(rows[0], order_id=f"market:{new_number()}")
        answer = await reservers[n % 4].reserve(claim)
        if answer.reserved and chance.random() < 0.2:
            async with fresh_store.transaction() as session:
                await stock.release(session, key=claim.key, order_id=claim.order_id)
            return 0
        return int(answer.reserved and claim.wanted[0].sku == SKU)

    sold = sum(await asyncio.gather(*(come(n) for n in range(200))))
    async with fresh_store.transaction() as session:
        rows = await session.execute(text("SELECT sku, sum(reserved)::int AS units FROM stock GROUP BY sku"))
        held = Counter({row.sku: row.units for row in rows})
    assert sold == held[SKU] <= 37
    assert held["B"] <= 20
    assert (await used(fresh_store))[0] == held[SKU]
    assert await books_agree(fresh_store)
    # What is left is left to whoever comes.
    rest = 37 - held[SKU]
    assert not rest or await takes(fresh_store, "market", rest)
    assert not await takes(fresh_store, "market", 1)


# --- the document ---
async def test_rules_that_stay_go_on_counting_and_new_ones_count_what_is_held(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 100})
    cap = {"kind": "cap", "channels": ["market"], "units": 10}
    await ruled(fresh_store, cap)
    assert await takes(fresh_store, "market", 4)
    view = await ruled(fresh_store, cap, {"kind": "limit", "channels": ["market"], "units": 10})
    assert (view.version, await used(fresh_store)) == (2, [4, 4])
    view = await ruled(fresh_store)
    assert (view.version, view.rules) == (3, ())
    assert await open_to(fresh_store, "market") == 96


async def test_a_rule_counts_the_same_whether_it_was_there_before_the_sales_or_came_after_them(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={SKU: 100, "B": 100}, south={SKU: 100, "B": 100})
    of_group: tuple[dict[str, Any], ...] = ({}, OWN, {"tiers": ["gold"]}, OWN | {"tiers": ["gold"]})
    times: tuple[dict[str, Any], ...] = (
        {},
        {"valid_from": (NOW - timedelta(days=1)).isoformat()},
        {"valid_until": (NOW + timedelta(days=1)).isoformat()},
        {"valid_until": (NOW - timedelta(days=1)).isoformat()},
        {"valid_from": (NOW + timedelta(days=1)).isoformat()},
    )
    rules = [
        {"kind": kind, "sku": sku, "node": node, "units": 99} | group | time
        for kind, sku, node, group, time in product(
            ("cap", "limit"), (SKU, None), (None, "*", "north"), of_group, times
        )
    ]
    await ruled(fresh_store, *rules)
    for channel, tier, then in product(("web", "market"), (None, "gold"), ("hold", "leave", "free")):
        number = new_number()
        order_id = await accepted(
            fresh_store, a_draft(channel=channel, external_id=str(number), customer_tier=tier)
        )
        claim = a_claim(("north", SKU, 1), ("south", SKU, 2), ("south", "B", 3), order_id=order_id)
        assert (await reserve(fresh_store, claim)).reserved
        async with fresh_store.transaction() as session:
            if then == "leave":
                for wanted in {unit.shipment_id for unit in claim.wanted}:
                    await stock.consume(session, wanted)
            elif then == "free":
                await stock.release(session, key=claim.key, order_id=claim.order_id)
    before = [state.uses for state in await _states(fresh_store)]
    await ruled(fresh_store)
    await ruled(fresh_store, *rules)
    assert [state.uses for state in await _states(fresh_store)] == before
    assert len({tuple(uses) for uses in before}) > 20
    assert await books_agree(fresh_store)


async def _states(store: Store) -> list[AllocationState]:
    async with store.transaction() as session:
        view = await allocation(session)
    return sorted(view.rules, key=lambda state: int(state.rule.rule_id[1:]))


async def test_the_same_document_changes_nothing_and_another_one_of_its_id_is_refused(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={SKU: 100})
    rule = {"kind": "cap", "units": 10}
    first = await ruled(fresh_store, rule, document_id="d1")
    assert (await ruled(fresh_store, rule, document_id="d1")).version == first.version == 1
    with pytest.raises(Conflict, match="said something else"):
        await ruled(fresh_store, rule | {"units": 11}, document_id="d1")
    with pytest.raises(Conflict, match="version 1 is in force, not 0"):
        await ruled(fresh_store, rule, replaces=0)
    assert (await ruled(fresh_store, rule | {"units": 11}, replaces=1)).version == 2


async def test_every_problem_is_named_and_nothing_is_written(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 100})
    with pytest.raises(InvalidDocument) as refused:
        await ruled(
            fresh_store,
            {"kind": "cap", "units": 1, "rule_id": "twice"},
            {"kind": "cap", "units": 1, "rule_id": "twice"},
            {"kind": "cap", "units": 1, "node": "nowhere"},
            {"kind": "cap", "units": 1, "sku": "NOTHING"},
        )
    assert [(problem.path, problem.code) for problem in refused.value.problems] == [
        ("rules[0].rule_id", "repeated_rule"),
        ("rules[1].rule_id", "repeated_rule"),
        ("rules[2].node", "unknown_node"),
        ("rules[3].sku", "unknown_sku"),
    ]
    async with fresh_store.transaction() as session:
        assert (await allocation(session)).version == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "cap"},
        {"kind": "cap", "percent": 10},
        {"kind": "limit", "units": 1, "percent": 10},
        {"kind": "limit", "percent": 101},
        {"kind": "limit", "units": -1},
        {"kind": "limit", "units": 1.5},
        {"kind": "protect", "units": 1},
        {
            "kind": "cap",
            "units": 1,
            "valid_from": "2026-01-02T00:00:00Z",
            "valid_until": "2026-01-02T00:00:00Z",
        },
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rules"):
        AllocationPolicy.model_validate(
            {"document_id": "d", "actor": "jo", "rules": [{"rule_id": "r", "sku": SKU} | rule]}
        )


# --- what is told ---
async def test_lookups_and_events_say_what_each_channel_may_have(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10}, south={SKU: 10})
    async with fresh_store.transaction() as session:
        await outbox.want(session, Topic.AVAILABILITY, timedelta(minutes=5))
    await ruled(fresh_store, OWN | {"kind": "protect", "units": 15})
    today = NOW.date()
    seen = [
        (await availability(fresh_store, [SKU], None, today, channel=channel)).skus[0].available
        for channel in ("web", "market", None)
    ]
    assert seen == [20, 5, 5]
    assert await takes(fresh_store, "market", 2, "north")
    async with fresh_store.transaction() as session:
        told = (
            await session.execute(
                text("SELECT payload FROM outbox_staged WHERE topic = 'availability' ORDER BY id")
            )
        ).scalars()
        last = {event["node"]: event for event in told}
        now = await outbox.availability(session, SKU)
    assert [last["north"][field] for field in ("available", "channels")] == [3, {"web": 8}]
    assert [last[event["node"]] for event in now] == now


async def test_rules_that_begin_or_run_out_are_told(fresh_store: Store) -> None:
    await stocked(fresh_store, north={SKU: 10})
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    await ruled(fresh_store, {"kind": "cap", "units": 1, "valid_from": soon.isoformat()})
    async with fresh_store.transaction() as session:
        assert await tell_of_time(session) == 0
    assert await open_to(fresh_store, "web") == 10
    await asyncio.sleep(0.6)
    async with fresh_store.transaction() as session:
        assert await tell_of_time(session) == 1
        assert await tell_of_time(session) == 0
    assert await open_to(fresh_store, "web") == 1
