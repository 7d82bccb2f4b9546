"""Small builders for the API's tests."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from activities.store.record import record
from activities.store.store import Store
from models.identifiers import order_workflow_id, review_task_id
from models.journal import Carried, OrderProjection, TimelineEntry
from models.review import Flag, ReviewKind, ReviewTask, Verdict
from models.states import OrderState, ReviewState


def new_number() -> str:
    """An order number that no other test uses, nor makes up by changing some characters of one."""
    return uuid4().hex[:16]


def a_draft(external_id: str | None = None, *, quantity: int = 2, channel: str = "web") -> dict[str, Any]:
    """An acceptable document with one line."""
    total = quantity * 255 + 395
    return {
        "channel": channel,
        "external_id": external_id or new_number(),
        "placed_at": "2026-03-02T09:30:00Z",
        "currency": "GBP",
        "customer": {"name": "Wilhelmina Testperson", "email": "wilhelmina@customers.example"},
        "ship_to": {"lines": ["7 Hidden Lane"], "city": "Leeds", "postcode": "LS1 4DY", "country": "GB"},
        "lines": [{"line_id": "1", "sku": "85123A", "quantity": quantity, "unit_price_minor": 255}],
        "charges": [{"code": "POST", "kind": "shipping", "amount_minor": 395}],
        "tenders": [{"token": "tok_ok", "amount_minor": total}],
        "totals": {"lines_minor": quantity * 255, "charges_minor": 395, "total_minor": total},
    }


def a_review(order_id: str, number: int = 1, **changes: Any) -> ReviewTask:
    """An open review task of an order."""
    now = datetime.now(UTC)
    task = ReviewTask(
        task_id=review_task_id(order_id, number),
        order_id=order_id,
        workflow_id=order_workflow_id(order_id),
        kind=ReviewKind.RISK,
        what_happened="an order above the limit came in",
        why_flagged=(Flag(code="high_value", reason="9.05 GBP is above the limit of 5.00 GBP"),),
        recommended=Verdict.APPROVE,
        recommendation="Approve: the customer is known.",
        options={Verdict.APPROVE: "the order goes on", Verdict.REJECT: "the order is rejected"},
        opened_at=now,
        remind_at=now + timedelta(hours=4),
        escalate_at=now + timedelta(hours=24),
        policy_version="test",
    )
    return task.model_copy(update=changes)


def an_entry(order_id: str, number: int = 1, **changes: Any) -> TimelineEntry:
    """A timeline entry of an order."""
    now = datetime.now(UTC)
    entry = TimelineEntry(
        entry_id=f"{order_workflow_id(order_id)}/{number}",
        order_id=order_id,
        at=now,
        business_at=now,
        kind="order.assessed",
        what="The risk rules were applied",
    )
    return entry.model_copy(update=changes)


async def write_down(
    store: Store,
    order_id: str,
    *,
    state: OrderState | None = None,
    version: int = 1,
    entries: tuple[TimelineEntry, ...] = (),
    reviews: tuple[ReviewTask, ...] = (),
) -> None:
    """Record what a run of the order would have carried."""
    projection = None
    if state is not None:
        waits = any(review.state is ReviewState.OPEN for review in reviews)
        projection = OrderProjection(version=version, state=state, needs_review=waits)
    async with store.transaction() as session:
        await record(session, order_id, Carried(entries=entries, order=projection, reviews=reviews))
