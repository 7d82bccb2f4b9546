"""Queue ``oms-notify``: tell customers and reviewers. Addresses are looked up here and travel no further."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.ports import MessageGateway
from activities.store.intake import stored_draft
from activities.store.notifications import Intended, intend_message, message_sent, nobody_to_tell
from activities.store.record import record
from activities.store.store import Store
from activities.store.tenders import tenders_of
from models.effects import Audience, Notified, Notify, Template
from models.errors import NotFound
from models.tender import PayLink
from workflows import steps


@dataclass(frozen=True)
class ReviewDesk:
    """Where people are told of reviews: ``reviewers`` decide them, ``escalation`` hears of one left unanswered."""

    reviewers: str
    escalation: str

    def address(self, template: Template) -> str:
        """Whom a message is for."""
        return self.escalation if template is Template.REVIEW_ESCALATED else self.reviewers


@dataclass(frozen=True)
class PayLinks:
    """How a customer is led to where another means of payment can be given: ``base`` with a signed token after it.

    Without a ``secret`` no links are made: the shop asks its customer itself.
    """

    base: str
    secret: str
    lifetime: timedelta

    def address(self, order_id: str, intended: Intended, facts: Mapping[str, str]) -> str | None:
        """The link for a message; None where none is made. It ends when the message says that the time is up."""
        if not self.secret or intended.pay_link_version is None:
            return None
        until = min(intended.since + self.lifetime, _moment(facts.get("until")) or _NEVER)
        return self.base + PayLink(order_id, intended.pay_link_version, until).token(self.secret)


class NotifyActivities:
    """Hand messages to the gateway. ``store`` knows the customers' addresses and what was sent already."""

    def __init__(
        self,
        store: Store,
        messages: MessageGateway,
        desk: ReviewDesk,
        pay_links: PayLinks | None = None,
    ) -> None:
        self._store = store
        self._messages = messages
        self._desk = desk
        self._pay_links = pay_links

    @implements(steps.NOTIFY)
    @speaks_temporal
    async def notify(self, effect: Notify) -> Notified:
        """Send one message once. No address is an answer: nobody is told, and nothing has failed.

        Who is told that the payment was declined gets the fact ``pay_link`` beside the facts of the message.
        """
        asks_to_pay = effect.template is Template.PAYMENT_DECLINED and effect.audience is Audience.CUSTOMER
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            version = await tenders_of(session, effect.order_id) if asks_to_pay else None
            intended = await intend_message(session, effect, pay_link_version=version)
            if intended.answer is not None:
                return intended.answer
            address = await self._address(session, effect)
            if address is None:
                await nobody_to_tell(session, effect.key)
                return Notified(sent=False)
        link = None
        if self._pay_links is not None:
            link = self._pay_links.address(effect.order_id, intended, effect.facts)
        # The gateway never sends one key twice, so a lost answer is asked for by sending again.
        message = await self._messages.send(
            key=effect.key,
            audience=effect.audience,
            template=effect.template,
            to=address,
            facts=effect.facts if link is None else effect.facts | {"pay_link": link},
        )
        async with self._store.transaction() as session:
            await message_sent(session, effect.key, message.message_id)
        return Notified(sent=True, message_id=message.message_id)

    async def _address(self, session: AsyncSession, effect: Notify) -> str | None:
        if effect.audience is Audience.REVIEWERS:
            return self._desk.address(effect.template)
        try:
            return (await stored_draft(session, effect.order_id)).draft.customer.email
        except NotFound:
            # The document was never accepted, so there is nobody we know.
            return None


_NEVER = datetime.max.replace(tzinfo=UTC)


def _moment(told: str | None) -> datetime | None:
    """A time or a day as a message tells it, in UTC where it names no zone. A day lasts until its end."""
    try:
        moment = datetime.fromisoformat(told or "")
        if len(told or "") == len("2026-03-02"):
            moment += timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
