"""Which queue is served by what. Modules are named, not imported: a worker loads only what its queues need."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from activities.implements import step_of
from workflows import steps

# Queue -> the classes whose methods implement its steps.
ACTIVITY_CLASSES: dict[str, tuple[str, ...]] = {
    steps.ORDERS: (
        "activities.orders:OrderActivities",
        "activities.reconciliation:ReconciliationActivities",
    ),
    steps.INVENTORY: (
        "activities.inventory:InventoryActivities",
        "activities.reconciliation:StockReconciliation",
    ),
    steps.PAYMENTS: (
        "activities.payments:PaymentActivities",
        "activities.reconciliation:MoneyReconciliation",
    ),
    steps.ROUTING: (
        "activities.routing:RoutingActivities",
        "activities.stock_values:StockValueActivities",
    ),
    steps.CLASSIFY: ("activities.classify:ClassifyActivities",),
    steps.SHIPPING: (
        "activities.shipping:ShippingActivities",
        "activities.reconciliation:LabelReconciliation",
    ),
    steps.NOTIFY_QUEUE: ("activities.notify:NotifyActivities",),
}
WORKFLOW_CLASSES: tuple[str, ...] = (
    "workflows.order:OrderWorkflow",
    "workflows.shipment:ShipmentWorkflow",
    "workflows.reconciliation:ReconciliationWorkflow",
    "workflows.stock_values:StockValuesWorkflow",
)


@dataclass(frozen=True)
class QueueProfile:
    """How much of a queue's work one process takes on at a time."""

    concurrent_activities: int = 20
    pollers: int = 4


PROFILES: dict[str, QueueProfile] = {
    steps.ORDERS: QueueProfile(),
    steps.INVENTORY: QueueProfile(),
    steps.PAYMENTS: QueueProfile(),
    # CPU-bound: more at once would only make each one slower.
    steps.ROUTING: QueueProfile(concurrent_activities=4, pollers=2),
    steps.CLASSIFY: QueueProfile(concurrent_activities=4, pollers=2),
    steps.SHIPPING: QueueProfile(),
    steps.NOTIFY_QUEUE: QueueProfile(concurrent_activities=10, pollers=2),
}


def load(name: str) -> type[Any]:
    """The class that ``module:Class`` names."""
    module, _, member = name.partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module), member)
    return loaded


def activity_methods(host: object) -> list[Callable[..., Any]]:
    """The methods of an activity class, or bound ones of its instance, that implement a step."""
    members = (getattr(host, name) for name in dir(host) if not name.startswith("__"))
    return [member for member in members if callable(member) and step_of(member) is not None]
