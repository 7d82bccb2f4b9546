"""What a customer is told whose payment was declined: with a link that is the same however often the step runs."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from activities.notify import NotifyActivities, PayLinks, ReviewDesk
from activities.ports import MessageGateway, SentMessage
from activities.store import tenders
from activities.store.store import Store
from models.effects import Audience, Notify, Template
from models.errors import OutcomeUnknown
from models.order import TenderKind
from models.states import OrderState
from models.tender import PayLink, read_pay_token
from tests.activities.conftest import Street
from tests.activities.running import failure_of, run
from tests.builders import a_draft, accepted, carrying, write_down

DESK = ReviewDesk(reviewers="reviewers@shop.test", escalation="lead@shop.test")
BASE = "https://shop.test/pay?token="
SECRET = "a secret of the tests"
LINKS = PayLinks(BASE, SECRET, timedelta(hours=72))


class Postbag:
    """The gateway, what it was handed, and an answer that may get lost."""

    def __init__(self, gateway: MessageGateway) -> None:
        self._gateway = gateway
        self.facts: list[Mapping[str, str]] = []
        self.loses = 0

    async def send(self, *, facts: dict[str, str], **message: Any) -> SentMessage:
        self.facts.append(facts)
        sent = await self._gateway.send(facts=facts, **message)
        if self.loses:
            self.loses -= 1
            raise OutcomeUnknown("the answer was lost")
        return sent


def declined(order_id: str, attempt: int = 1, **changes: Any) -> Notify:
    message = Notify(
        order_id=order_id,
        audience=Audience.CUSTOMER,
        template=Template.PAYMENT_DECLINED,
        facts={"until": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
        key=f"order:{order_id}:notify-payment_declined:{attempt}",
    )
    return message.model_copy(update=changes)


async def awaiting(store: Store) -> str:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, OrderState.AWAITING_CUSTOMER, 3))
    return order_id


async def another_card(store: Store, order_id: str) -> None:
    async with store.transaction() as session:
        await tenders.offer(
            session, order_id, kind=TenderKind.CARD, token="tok_b", request_id="r1", actor="dana"
        )


def link_in(facts: Mapping[str, str]) -> PayLink:
    assert facts["pay_link"].startswith(BASE)
    return read_pay_token((SECRET,), facts["pay_link"].removeprefix(BASE), datetime.now(UTC))


@pytest.fixture
def postbag(street: Street) -> Postbag:
    return Postbag(street.near.messages)


async def test_who_is_declined_is_sent_a_link_that_ends_with_the_time_given(
    store: Store, postbag: Postbag
) -> None:
    order_id = await awaiting(store)
    message = declined(order_id)
    assert (await run(NotifyActivities(store, postbag, DESK, LINKS).notify, message)).sent
    (facts,) = postbag.facts
    link = link_in(facts)
    assert (link.order_id, link.version) == (order_id, 0)
    assert link.until == datetime.fromisoformat(message.facts["until"]).replace(microsecond=0)
    assert "pay_link" not in message.facts


async def test_the_link_is_the_same_when_the_answer_is_lost_and_another_card_has_come_meanwhile(
    store: Store, postbag: Postbag
) -> None:
    order_id = await awaiting(store)
    message, notify = declined(order_id), NotifyActivities(store, postbag, DESK, LINKS)
    postbag.loses = 1
    assert (await failure_of(notify.notify, message)).type == "outcome_unknown"
    await another_card(store, order_id)
    assert (await run(notify.notify, message)).sent
    first, again = postbag.facts
    assert first == again


async def test_the_message_after_another_decline_has_a_link_of_its_own(
    store: Store, postbag: Postbag
) -> None:
    order_id = await awaiting(store)
    notify = NotifyActivities(store, postbag, DESK, LINKS)
    await run(notify.notify, declined(order_id, 1))
    await another_card(store, order_id)
    await run(notify.notify, declined(order_id, 2))
    assert [link_in(facts).version for facts in postbag.facts] == [0, 1]


@pytest.mark.parametrize(
    ("until", "ends_after"),
    [
        (None, timedelta(hours=72)),
        ("soon", timedelta(hours=72)),
        ("2199-01-01T00:00:00+00:00", timedelta(hours=72)),
        ("9999-12-31", timedelta(hours=72)),
    ],
)
async def test_a_link_never_lives_longer_than_the_settings_say(
    store: Store, postbag: Postbag, until: str | None, ends_after: timedelta
) -> None:
    order_id = await awaiting(store)
    facts = {} if until is None else {"until": until}
    await run(NotifyActivities(store, postbag, DESK, LINKS).notify, declined(order_id, facts=facts))
    async with store.transaction() as session:
        since: datetime = (
            await session.execute(
                text("SELECT created_at FROM notifications WHERE order_id = :id"), {"id": order_id}
            )
        ).scalar_one()
    assert link_in(postbag.facts[0]).until == (since + ends_after).replace(microsecond=0)


async def test_a_day_lasts_until_its_end(store: Store, postbag: Postbag) -> None:
    order_id = await awaiting(store)
    day = (datetime.now(UTC) + timedelta(days=1)).date()
    notify = NotifyActivities(store, postbag, DESK, LINKS)
    await run(notify.notify, declined(order_id, facts={"until": day.isoformat()}))
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    assert link_in(postbag.facts[0]).until == end


@pytest.mark.parametrize("links", [None, PayLinks(BASE, "", timedelta(hours=72))])
async def test_without_a_secret_the_customer_is_told_and_no_link_is_made(
    store: Store, postbag: Postbag, links: PayLinks | None
) -> None:
    order_id = await awaiting(store)
    message = declined(order_id)
    assert (await run(NotifyActivities(store, postbag, DESK, links).notify, message)).sent
    assert postbag.facts == [message.facts]


async def test_nobody_else_is_sent_a_link(store: Store, postbag: Postbag) -> None:
    order_id = await awaiting(store)
    notify = NotifyActivities(store, postbag, DESK, LINKS)
    await run(notify.notify, declined(order_id, 1, template=Template.ORDER_CONFIRMED))
    await run(notify.notify, declined(order_id, 2, audience=Audience.REVIEWERS))
    assert ["pay_link" in facts for facts in postbag.facts] == [False, False]
