"""Puts a simulator together from its parts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from starlette.routing import Route

from apps.simulators import carrier, messages, payment, warehouse
from apps.simulators.courier import Courier
from apps.simulators.faults import Faults, Simulator
from apps.simulators.ledger import Ledger
from apps.simulators.misbehaving import Misbehaving
from apps.simulators.serving import Desk, Settings, application
from apps.simulators.statement import ledger_path

ROUTES: Mapping[Simulator, Callable[[Desk], list[Route]]] = {
    "payment": payment.routes,
    "warehouse": warehouse.routes,
    "carrier": carrier.routes,
    "messages": messages.routes,
}


@contextmanager
def open_simulator(
    name: Simulator, data_dir: Path, settings: Settings, *, webhook_url: str, secret: str
) -> Iterator[Misbehaving]:
    """The simulator ``name`` on its state in ``data_dir``. Raises ``AlreadyRunning`` when another has that open."""
    ledger = Ledger(ledger_path(data_dir, name))
    try:
        faults = Faults(name, data_dir, ledger.count_fault)
        courier = Courier(ledger, faults, url=webhook_url, secret=secret, speed=settings.speed)
        desk = Desk(ledger=ledger, courier=courier, settings=settings, faults=faults)
        yield application(name, desk, ROUTES[name](desk))
    finally:
        ledger.close()
