import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.store import reads
from activities.store.intake import (
    Acceptance,
    accept_draft,
    canonical_hash,
    mark_started,
    stored_draft,
    take_unstarted,
)
from activities.store.store import Store
from models.clock import ClockStart
from models.errors import NotFound
from models.order import OrderDraft
from models.states import OrderState
from tests.builders import a_draft, accept, gbp, order_id_of


async def test_a_new_document_is_stored_with_its_order(store: Store) -> None:
    draft = a_draft(lines=3, quantity=2, price=500)

    answer = await accept(store, draft)

    assert answer.acceptance is Acceptance.NEW
    assert answer.workflow_id == f"order:{order_id_of(draft)}"
    async with store.transaction() as session:
        assert (await stored_draft(session, answer.order_id)).draft == draft
        order = await reads.order(session, answer.order_id)
    assert order is not None
    assert (order.state, order.line_count, order.unit_count) == (OrderState.RECEIVED, 3, 6)
    assert (order.total, order.goods) == (gbp(3395), gbp(3000))
    assert [line.line_id for line in order.lines] == ["1", "2", "3"]
    assert order.document_hash == answer.document_hash == canonical_hash(draft)


async def test_the_same_document_again_is_the_same_order(store: Store) -> None:
    draft = a_draft()
    first = await accept(store, draft)
    again = await accept(store, draft)
    assert again.acceptance is Acceptance.SAME
    assert (again.order_id, again.document_hash) == (first.order_id, first.document_hash)


async def test_the_same_id_with_other_content_conflicts_and_changes_nothing(store: Store) -> None:
    draft = a_draft()
    first = await accept(store, draft)
    other = await accept(store, draft.model_copy(update={"purchase_order": "PO-7"}))
    assert other.acceptance is Acceptance.CONFLICT
    assert other.document_hash == first.document_hash
    async with store.transaction() as session:
        assert (await stored_draft(session, first.order_id)).draft == draft


async def test_twenty_at_once_make_one_order(store: Store) -> None:
    draft = a_draft()
    answers = await asyncio.gather(*(accept(store, draft) for _ in range(20)))
    assert sorted(answer.acceptance for answer in answers) == ["new"] + ["same"] * 19


def test_the_hash_looks_at_content_not_at_writing() -> None:
    draft = a_draft()
    spelt_out = OrderDraft.model_validate_json(draft.model_dump_json())
    assert canonical_hash(spelt_out) == canonical_hash(draft)
    assert canonical_hash(draft.model_copy(update={"ship_complete": True})) != canonical_hash(draft)


@given(st.text(max_size=50).filter(lambda text: text.strip() and "\x00" not in text))
def test_any_name_hashes_the_same_after_a_round_trip(name: str) -> None:
    draft = a_draft(customer={"name": name})
    assert canonical_hash(OrderDraft.model_validate_json(draft.model_dump_json())) == canonical_hash(draft)


async def test_the_sweeper_sees_what_was_accepted_and_not_started(fresh_store: Store) -> None:
    started, waiting = a_draft(), a_draft()
    begins = datetime(2011, 9, 1, 8, tzinfo=UTC)
    await accept(fresh_store, started)
    async with fresh_store.transaction() as session:
        clock = ClockStart(speed=86_400, business_start=begins)
        await accept_draft(session, waiting, source="import", clock=clock)
        await mark_started(session, order_id_of(started))

    async with fresh_store.transaction() as session:
        assert await take_unstarted(session, timedelta(hours=1)) == []
        found = await take_unstarted(session, timedelta(0))

    assert [one.order_id for one in found] == [order_id_of(waiting)]
    assert found[0].clock == ClockStart(speed=86_400, business_start=begins)
    assert found[0].document_hash == canonical_hash(waiting)


async def test_an_unknown_document_is_not_found(store: Store) -> None:
    async with store.transaction() as session:
        with pytest.raises(NotFound, match="web:none"):
            await stored_draft(session, "web:none")
