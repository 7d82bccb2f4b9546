"""Versions of the policy in the database: proposed by one, approved by another, never changed."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from activities.store import policies, proposing
from activities.store.store import Store
from models.errors import Conflict, InvalidDocument, NotFound, Refused
from models.policy import PolicyDecision, PolicyDocument, PolicyProposal, PolicyState, PolicyView
from tests.builders import stocked, under_policy


async def proposed(store: Store, document: dict[str, Any], **changes: Any) -> PolicyView:
    fields = {"request_id": "r1", "actor": "jo", "reason": "a sale", "document": document} | changes
    async with store.transaction() as session:
        return await proposing.propose(session, PolicyProposal.model_validate(fields))


async def approved(store: Store, version: int, actor: str = "dana") -> PolicyView:
    async with store.transaction() as session:
        return await proposing.approve(session, version, PolicyDecision(actor=actor, reason="fine"))


async def in_force(store: Store) -> int:
    async with store.transaction() as session:
        return (await policies.active(session)).version


@pytest.fixture
async def shop(fresh_store: Store) -> Store:
    await stocked(fresh_store, north={"A": 9, "B": 9}, south={"A": 9})
    return fresh_store


async def test_a_policy_holds_once_somebody_else_has_approved_it(shop: Store) -> None:
    async with shop.transaction() as session:
        built_in = await policies.view(session)
    assert (built_in.version, built_in.entry, built_in.document) == (0, None, {})
    view = await proposed(shop, {"routing": {"max_parcels": 2}})
    assert view.entry is not None and view.entry.state is PolicyState.PROPOSED
    assert await in_force(shop) == 0
    for author in ("jo", " JO "):
        with pytest.raises(Refused, match="somebody else"):
            await approved(shop, 1, author)
    view = await approved(shop, 1)
    assert view.entry is not None and view.entry.decided_by == "dana"
    assert await in_force(shop) == 1
    # Sent again by whoever approved it.
    assert (await approved(shop, 1)).entry == view.entry
    with pytest.raises(Refused, match="active by dana already"):
        await approved(shop, 1, "eve")


async def test_the_next_one_replaces_it_and_history_knows_all(shop: Store) -> None:
    await under_policy(shop, {"routing": {"max_parcels": 2}})
    await under_policy(shop, {"routing": {"max_parcels": 3}})
    await proposed(shop, {}, request_id="r3")
    async with shop.transaction() as session:
        await proposing.refuse(session, 3, PolicyDecision(actor="jo"))
        history = await policies.history(session)
        old = await policies.of_version(session, 1)
    assert history.active == 2
    assert [entry.state for entry in history.versions] == ["refused", "active", "replaced"]
    assert old.document.routing.max_parcels == 2
    for version in (1, 3):
        with pytest.raises(Refused, match="already"):
            await approved(shop, version)
    with pytest.raises(NotFound):
        await approved(shop, 9)


async def test_one_that_was_written_before_another_came_into_force_does_not_undo_it(shop: Store) -> None:
    await proposed(shop, {"routing": {"max_parcels": 2}})
    await proposed(shop, {"risk_review": {"refused_countries": ["XX"]}}, request_id="r2")
    await approved(shop, 2)
    with pytest.raises(Conflict, match="written when 0 was in force, and 2 is now"):
        await approved(shop, 1)
    assert await in_force(shop) == 2


async def test_keys_of_a_newer_version_are_left_out_by_an_older_process(shop: Store) -> None:
    await under_policy(shop, {"routing": {"max_parcels": 2}})
    async with shop.transaction() as session:
        await session.execute(text("ALTER TABLE policies DISABLE TRIGGER kept"))
        await session.execute(
            text("UPDATE policies SET document = CAST(:d AS jsonb)"),
            {"d": '{"drones": true, "routing": {"max_parcels": 3, "height": 9}}'},
        )
        assert (await policies.active(session)).document.routing.max_parcels == 3


async def test_what_is_sent_twice_is_proposed_once(shop: Store) -> None:
    first = await proposed(shop, {"routing": {"max_parcels": 2}})
    assert await proposed(shop, {"routing": {"max_parcels": 2}}) == first
    with pytest.raises(Conflict, match="an id is used for one request"):
        await proposed(shop, {"routing": {"max_parcels": 3}})
    with pytest.raises(Conflict, match="version 0 is in force, not 4"):
        await proposed(shop, {}, request_id="r2", replaces=4)


async def test_one_that_makes_no_sense_is_refused_as_a_whole_and_the_active_one_stays(shop: Store) -> None:
    await under_policy(shop, {"routing": {"max_parcels": 2}})
    with pytest.raises(InvalidDocument) as refused:
        await proposed(
            shop,
            {
                "routing_rules": [{"rule_id": "r", "only": ["mars"]}],
                "substitutes": [{"sku": "A", "by": ["nothing"]}],
            },
        )
    assert [problem.path for problem in refused.value.problems] == [
        "routing_rules[0].only[0]",
        "substitutes[0].by[0]",
    ]
    assert await in_force(shop) == 1
    async with shop.transaction() as session:
        assert len((await policies.history(session)).versions) == 1


async def test_it_is_checked_again_when_it_is_approved(shop: Store) -> None:
    await proposed(shop, {"routing_rules": [{"rule_id": "r", "only": ["south"]}]})
    async with shop.transaction() as session:
        await session.execute(text("UPDATE nodes SET active = false WHERE node_id = 'south'"))
    with pytest.raises(InvalidDocument, match="no active node"):
        await approved(shop, 1)
    assert await in_force(shop) == 0


async def test_safety_stock_is_set_with_the_approval_where_the_sku_is_stocked(shop: Store) -> None:
    document = {
        "node_groups": {"all": ["north", "south"]},
        "safety_stock": [{"sku": "A", "at": "all", "units": 3}, {"sku": "B", "at": "all", "units": 2}],
    }
    await proposed(shop, document)
    assert await kept_back(shop) == {}
    await approved(shop, 1)
    assert await kept_back(shop) == {("north", "A"): 3, ("north", "B"): 2, ("south", "A"): 3}


async def kept_back(store: Store) -> dict[tuple[str, str], int]:
    async with store.transaction() as session:
        rows = await session.execute(
            text("SELECT node, sku, safety_stock FROM stock WHERE safety_stock > 0 ORDER BY node, sku")
        )
        return {(node, sku): units for node, sku, units in rows}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM policies",
        "UPDATE policies SET document = '{}'",
        "UPDATE policies SET proposed_by = 'eve'",
        "UPDATE policies SET decided_by = 'eve'",
        "UPDATE policies SET state = 'refused'",
        "UPDATE policies SET state = 'proposed', decided_by = NULL, decided_at = NULL",
    ],
)
async def test_what_was_decided_cannot_be_changed_by_hand_either(shop: Store, statement: str) -> None:
    await under_policy(shop, {"routing": {"max_parcels": 2}})
    with pytest.raises(DBAPIError, match="policy"):
        async with shop.transaction() as session:
            await session.execute(text(statement))


async def test_two_people_are_needed_by_hand_as_well(shop: Store) -> None:
    await proposed(shop, {})
    with pytest.raises(IntegrityError, match="two_people"):
        async with shop.transaction() as session:
            await session.execute(
                text("UPDATE policies SET state = 'active', decided_by = ' Jo', decided_at = now()")
            )


async def test_what_is_stored_reads_as_it_was_sent(shop: Store) -> None:
    document = {"routing_rules": [{"rule_id": "r", "sequence": [["north"], ["south"]]}]}
    await under_policy(shop, document)
    async with shop.transaction() as session:
        assert (await policies.view(session)).document == document
        assert (await policies.active(session)).document == PolicyDocument.model_validate(document)
