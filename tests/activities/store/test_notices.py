from datetime import UTC, datetime

import pytest

from activities.store import reads
from activities.store.notices import keep_notice
from activities.store.store import Store
from models.messages import PaymentEvent, PaymentEventKind
from models.states import OrderState
from tests.builders import NOON, a_draft, accepted, carrying, gbp, write_down


@pytest.mark.parametrize(
    ("state", "stands_still"), [(OrderState.AWAITING_CUSTOMER, True), (OrderState.AUTHORISING, False)]
)
async def test_the_business_clock_of_a_notice_stands_still_while_the_customer_is_asked(
    store: Store, state: OrderState, stands_still: bool
) -> None:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, state, 3))
    event = PaymentEvent(
        event_id="e",
        kind=PaymentEventKind.AUTHORISED,
        occurred_at=datetime.now(UTC),
        provider_ref="auth-1",
        amount=gbp(1395),
    )
    async with store.transaction() as session:
        assert await keep_notice(session, order_id, event)
        notice = (await reads.timeline(session, order_id))[-1]
    assert (notice.business_at == NOON) is stands_still
