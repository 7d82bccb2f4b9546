"""Stand-ins for the workflows, under their names and with their messages, that remember what the API told them.

What an order does with a message is tested beside the workflows; here it matters that it arrives, once, as agreed.
"""

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from models.base import Contract
    from models.messages import (
        AmendAnswer,
        AmendOrder,
        AmendOutcome,
        CancelAnswer,
        CancelOrder,
        CancelOutcome,
        CarrierEvent,
        DecideReview,
        DecisionAnswer,
        OfferAnswer,
        OfferTender,
        PaymentEvent,
        SignalledDecision,
        WmsEvent,
    )


class Heard(Contract):
    """Everything a run was told, by message name."""

    run: dict[str, Any]
    messages: list[tuple[str, dict[str, Any]]]


class _Listening:
    def __init__(self) -> None:
        self.run_input: Any = None
        self.messages: list[tuple[str, Any]] = []
        self.ended = False

    async def listen(self, run: Any) -> None:
        self.run_input = run
        await workflow.wait_condition(lambda: self.ended)

    def note(self, name: str, message: Contract) -> None:
        self.messages.append((name, message.model_dump(mode="json")))


@workflow.defn(name="OrderWorkflow")
class RehearsedOrder(_Listening):
    @workflow.run
    async def run(self, run: dict[str, Any]) -> None:
        await self.listen(run)

    @workflow.query
    def heard(self) -> Heard:
        return Heard(run=self.run_input, messages=self.messages)

    @workflow.signal
    async def end(self) -> None:
        self.ended = True

    @workflow.update
    async def decide_review(self, decision: DecideReview) -> DecisionAnswer:
        self.note("decide_review", decision)
        return DecisionAnswer(task_id=decision.task_id, verdict=decision.verdict, message="noted")

    @decide_review.validator
    def _may_decide(self, decision: DecideReview) -> None:
        if decision.reason == "too late":
            raise ApplicationError("the task was decided a moment ago")

    @workflow.update
    async def cancel(self, request: CancelOrder) -> CancelAnswer:
        self.note("cancel", request)
        if request.reason == "after hand-over":
            raise ApplicationError("every parcel is on its way", non_retryable=True)
        return CancelAnswer(outcome=CancelOutcome.CANCELLING, message="stock is freed")

    @workflow.update
    async def amend_order(self, request: AmendOrder) -> AmendAnswer:
        self.note("amend_order", request)
        if request.reason == "declined":
            return AmendAnswer(
                outcome=AmendOutcome.REFUSED, message="the difference was declined", code="payment_declined"
            )
        return AmendAnswer(outcome=AmendOutcome.APPLYING, message="shipment 1 is being called off")

    @amend_order.validator
    def _may_amend(self, request: AmendOrder) -> None:
        if request.reason == "too late":
            raise ApplicationError("the order is being settled")

    @workflow.signal(name="amend_order")
    async def amend_order_later(self, request: AmendOrder) -> None:
        self.note("amend_order_later", request)

    @workflow.update
    async def offer_tender(self, offer: OfferTender) -> OfferAnswer:
        self.note("offer_tender", offer)
        if offer.actor == "too late":
            return OfferAnswer(taken=False, message="the time for another tender is over")
        return OfferAnswer(taken=True, message="it is tried now")

    @workflow.signal(name="offer_tender")
    async def offered_tender(self, offer: OfferTender) -> None:
        self.note("offer_tender signal", offer)

    @workflow.signal
    async def approve(self, decision: SignalledDecision) -> None:
        self.note("approve", decision)

    @workflow.signal
    async def reject(self, decision: SignalledDecision) -> None:
        self.note("reject", decision)

    @workflow.signal
    async def finish(self, decision: SignalledDecision) -> None:
        self.note("finish", decision)

    @workflow.signal
    async def cancel_order(self, request: CancelOrder) -> None:
        self.note("cancel_order", request)

    @workflow.signal
    async def payment_event(self, event: PaymentEvent) -> None:
        self.note("payment_event", event)


@workflow.defn(name="ShipmentWorkflow")
class RehearsedShipment(_Listening):
    @workflow.run
    async def run(self, run: dict[str, Any]) -> None:
        await self.listen(run)

    @workflow.query
    def heard(self) -> Heard:
        return Heard(run=self.run_input, messages=self.messages)

    @workflow.signal
    async def carrier_event(self, event: CarrierEvent) -> None:
        self.note("carrier_event", event)

    @workflow.signal
    async def wms_event(self, event: WmsEvent) -> None:
        self.note("wms_event", event)
