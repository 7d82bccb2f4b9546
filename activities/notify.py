"""Queue ``oms-notify``: tell customers and reviewers. Addresses are looked up here and travel no further."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.ports import MessageGateway
from activities.store.intake import stored_draft
from activities.store.notifications import intend_message, message_sent, nobody_to_tell
from activities.store.record import record
from activities.store.store import Store
from models.effects import Audience, Notified, Notify, Template
from models.errors import NotFound
from workflows import steps


@dataclass(frozen=True)
class ReviewDesk:
    """Where people are told of reviews: ``reviewers`` decide them, ``escalation`` hears of one left unanswered."""

    reviewers: str
    escalation: str

    def address(self, template: Template) -> str:
        """Whom a message is for."""
        return self.escalation if template is Template.REVIEW_ESCALATED else self.reviewers


class NotifyActivities:
    """Hand messages to the gateway. ``store`` knows the customers' addresses and what was sent already."""

    def __init__(self, store: Store, messages: MessageGateway, desk: ReviewDesk) -> None:
        self._store = store
        self._messages = messages
        self._desk = desk

    @implements(steps.NOTIFY)
    @speaks_temporal
    async def notify(self, effect: Notify) -> Notified:
        """Send one message once. No address is an answer: nobody is told, and nothing has failed."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            sent = await intend_message(session, effect)
            if sent is not None:
                return sent
            address = await self._address(session, effect)
            if address is None:
                await nobody_to_tell(session, effect.key)
                return Notified(sent=False)
        # The gateway never sends one key twice, so a lost answer is asked for by sending again.
        message = await self._messages.send(
            key=effect.key,
            audience=effect.audience,
            template=effect.template,
            to=address,
            facts=effect.facts,
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
