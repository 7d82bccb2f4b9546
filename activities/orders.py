"""Queue ``oms-orders``: check documents, write progress."""

import json

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.store.amendments import apply
from activities.store.intake import (
    Acceptance,
    StoredDraft,
    accept_draft,
    is_open,
    keep_customer_type,
    mark_started,
    runs_elsewhere,
    stored_draft,
)
from activities.store.patience import with_patience
from activities.store.record import record
from activities.store.store import Store
from models.effects import (
    AmendmentApplied,
    ApplyAmendment,
    OrderFacts,
    Recorded,
    RecordProgress,
    ValidateOrder,
    Validation,
)
from models.errors import InvalidDocument, NotFound, Problem
from models.identifiers import order_id as make_order_id
from models.identifiers import order_workflow_id
from models.money import Money
from models.order import MAX_INLINE_BYTES, CustomerType, OrderDraft
from policies.classification import classify
from policies.intake import check_draft, check_parsed
from workflows import steps


class OrderActivities:
    """What an order's run asks of its own records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @implements(steps.VALIDATE_ORDER)
    @speaks_temporal
    async def validate_order(self, effect: ValidateOrder) -> Validation:
        """The facts of the stored document, or of the inline draft of a foreign client, which is stored first.

        Or every problem, of the start, of the document, and of an order that this run may not carry out.
        """
        try:
            return await self._accepted(effect, _inline_draft(effect))
        except InvalidDocument as unusable:
            return await self._refused(effect, unusable.problems)

    @implements(steps.RECORD_PROGRESS)
    @speaks_temporal
    async def record_progress(self, effect: RecordProgress) -> Recorded:
        """Write what is carried. A review that was opened waits as long as the policy in force has it."""
        async with self._store.transaction() as session:
            carried, patience = await with_patience(session, effect.carried)
            await record(session, effect.order_id, carried)
        return Recorded(patience=patience)

    @implements(steps.APPLY_AMENDMENT)
    @speaks_temporal
    async def apply_amendment(self, effect: ApplyAmendment) -> AmendmentApplied:
        """The facts of the amended document, which is in force from here on; or why the amendment is refused."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            return await apply(session, effect)

    async def _accepted(self, effect: ValidateOrder, inline: OrderDraft | None) -> Validation:
        async with self._store.transaction() as session:
            if inline is not None:
                await _store_inline(session, inline)
            stored = await _document_of(session, effect)
            await mark_started(session, effect.order_id)
            customer_type, _ = classify(stored.draft)
            await keep_customer_type(session, effect.order_id, customer_type)
            await record(session, effect.order_id, effect.carried)
        if problems := check_draft(stored.draft):
            return Validation(problems=problems)
        return Validation(facts=_facts(effect.order_id, stored, customer_type))

    async def _refused(self, effect: ValidateOrder, problems: tuple[Problem, ...]) -> Validation:
        # If there is an order of this id, it is not what this run was started with: its row is not this run's to move.
        carried = effect.carried.model_copy(update={"order": None})
        async with self._store.transaction() as session:
            await record(session, effect.order_id, carried)
        return Validation(problems=problems)


def _inline_draft(effect: ValidateOrder) -> OrderDraft | None:
    """The checked draft that came with the start. Raises ``InvalidDocument`` with all that is wrong with both."""
    problems = effect.problems + _misnamed(effect)
    draft = None
    if effect.draft is not None:
        try:
            draft = _check_inline(effect)
        except InvalidDocument as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidDocument(problems)
    return draft


def _misnamed(effect: ValidateOrder) -> tuple[Problem, ...]:
    """An order has one run, which its shipments, cancellations and webhooks know by its name."""
    named = order_workflow_id(effect.order_id)
    if effect.workflow_id == named:
        return ()
    message = f"is {effect.workflow_id}, and an order's is order:CHANNEL:NUMBER: start it as {named}"
    return (Problem(path="workflow_id", code="wrong_workflow_id", message=message),)


def _check_inline(effect: ValidateOrder) -> OrderDraft:
    size = len(json.dumps(effect.draft).encode())
    if size > MAX_INLINE_BYTES:
        raise _invalid(
            "",
            "document_too_large",
            f"has {size:,} bytes; inline at most {MAX_INLINE_BYTES:,} are accepted: send it to POST /v1/orders",
        )
    draft = check_parsed(effect.draft)
    named = make_order_id(draft.channel, draft.external_id)
    if named != effect.order_id:
        raise _invalid(
            "external_id",
            "id_mismatch",
            f"the document is order {named}, the workflow was started as {effect.order_id}",
        )
    return draft


async def _store_inline(session: AsyncSession, draft: OrderDraft) -> None:
    accepted = await accept_draft(session, draft, source="temporal")
    if accepted.acceptance is Acceptance.CONFLICT:
        raise _invalid(
            "external_id",
            "conflict",
            f"order {accepted.order_id} was already accepted with other content: an order number is used once",
        )


async def _document_of(session: AsyncSession, effect: ValidateOrder) -> StoredDraft:
    """The stored document of an order that is still to be carried out, by this run and no other."""
    order_id = effect.order_id
    try:
        stored = await stored_draft(session, order_id)
    except NotFound:
        raise _invalid(
            "draft",
            "no_document",
            f"no document came with the start, and none is stored for order {order_id}",
        ) from None
    if not await is_open(session, order_id):
        raise _invalid("external_id", "already_ended", f"order {order_id} has already come to its end")
    if await runs_elsewhere(session, order_id, effect.first_run_id):
        # It knows nothing of the money and the stock that the other one holds.
        raise _invalid(
            "external_id",
            "another_run",
            f"order {order_id} was begun by another run, which must go on: orderwright review list says how",
        )
    return stored


def _invalid(path: str, code: str, message: str) -> InvalidDocument:
    return InvalidDocument((Problem(path=path, code=code, message=message),))


def _facts(order_id: str, stored: StoredDraft, customer_type: CustomerType) -> OrderFacts:
    draft = stored.draft
    return OrderFacts(
        order_id=order_id,
        document_hash=stored.document_hash,
        channel=draft.channel,
        customer_type=customer_type,
        total=Money(minor=draft.totals.total_minor, currency=draft.currency),
        goods=Money(minor=draft.totals.lines_minor, currency=draft.currency),
        line_count=len(draft.lines),
        unit_count=sum(line.quantity for line in draft.lines),
        max_line_quantity=max(line.quantity for line in draft.lines),
        ship_country=draft.ship_to.country,
        placed_at=draft.placed_at,
        promise_by=draft.promise_by,
    )
