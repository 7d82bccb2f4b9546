"""What every part of an order's run knows: its facts, its shipments, its state, and the way out of the forward path."""

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from models import effects as e
    from models.identifiers import idempotency_key, shipment_id, shipment_workflow_id
    from models.memory import OrderMemory
    from models.money import Money
    from models.plan import ShipmentRef
    from models.states import SHIPMENT_HANDED_OVER, SHIPMENT_TERMINAL, OrderState, ShipmentState, order_may
    from workflows.case import CalledOff, Case
    from workflows.pages import order_page


class Leaving(Exception):
    """The order leaves the forward path for one of the exits.

    ``because`` is for our own people and may name rules and limits; ``told`` is what the customer is told.
    """

    def __init__(self, to: OrderState, because: str, *, told: str) -> None:
        super().__init__(because)
        self.to = to
        self.because = because
        self.told = told


class Changed(Exception):
    """What is to be shipped has changed: go back to where it is planned."""


class RestDropped(Exception):
    """What is not on its way yet will not be shipped; the shipments of earlier plans go on."""


class OrderCase(Case[OrderMemory]):
    """Base of the order's parts."""

    def _facts(self) -> e.OrderFacts:
        if self.memory.facts is None:
            raise RuntimeError("the order has not been validated")
        return self.memory.facts

    def _key(self, step: str, attempt: int = 1) -> str:
        return idempotency_key(workflow.info().workflow_id, step, attempt)

    def _enter(self, state: OrderState, *, why: str | None = None) -> None:
        memory = self.memory
        if state is memory.state:
            return
        if not order_may(memory.state, state):
            raise RuntimeError(f"an order cannot go from {memory.state} to {state}")
        memory.state = state
        self._changed()
        self.note(f"order.{state}", f"order {state}", why=why)
        self._show()

    def _show(self) -> None:
        workflow.set_current_details(order_page(self.memory))

    # --- turning back ---
    def _turned_back(self) -> bool:
        """Whether another plan is asked for than the one that is being made or carried out."""
        memory = self.memory
        return memory.amendment is not None or bool(memory.stock_lost) or bool(memory.again)

    def _turn_back(self) -> None:
        """Leave the forward path where the order was called off, or is to be planned anew."""
        if self.memory.cancel is not None:
            if self.memory.earlier:
                raise RestDropped(self.memory.cancel.reason)
            raise CalledOff
        if self._turned_back():
            raise Changed

    # --- shipments ---
    def _anything_out(self) -> bool:
        """Whether shipments of this order were started and are not all called off."""
        return self.memory.released or bool(self.memory.earlier)

    def _planned_shipments(self) -> tuple[ShipmentRef, ...]:
        """Every shipment that is or will be: those of earlier plans that go on, and those of the present plan."""
        memory = self.memory
        return tuple(started.ref for started in memory.earlier) + (
            memory.plan.shipments if memory.plan else ()
        )

    def _started_shipments(self) -> tuple[ShipmentRef, ...]:
        """Those of them that were started."""
        memory = self.memory
        return tuple(started.ref for started in memory.earlier) + (
            memory.plan.shipments if memory.plan and memory.released else ()
        )

    def _kept_amount(self) -> Money:
        """The part of the order's total that shipments of earlier plans take."""
        return Money.total((s.ref.amount for s in self.memory.earlier), self._facts().total.currency)

    def _outstanding(self) -> Money:
        """The part of the order's total that is still to be planned."""
        return self._facts().total - self._kept_amount()

    def _shipment_state(self, number: int) -> ShipmentState:
        progress = self.memory.shipments.get(number)
        return progress.state if progress else ShipmentState.PLANNED

    def _is_over(self, number: int) -> bool:
        return self._shipment_state(number) in SHIPMENT_TERMINAL

    def _has_left(self, number: int) -> bool:
        return self._shipment_state(number) in SHIPMENT_HANDED_OVER

    def _shipment_run(self, number: int) -> workflow.ExternalWorkflowHandle[Any]:
        return workflow.get_external_workflow_handle(shipment_workflow_id(shipment_id(self.order_id, number)))
