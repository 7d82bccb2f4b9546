"""Puts a simulator together from its parts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from apps.simulators import carrier, messages, payment, warehouse
from apps.simulators.courier import Courier
from apps.simulators.ledger import Ledger
from apps.simulators.serving import Desk, Settings, application
from apps.simulators.statement import ledger_path

ROUTES: Mapping[str, Callable[[Desk], list[Route]]] = {
    "payment": payment.routes,
    "warehouse": warehouse.routes,
    "carrier": carrier.routes,
    "messages": messages.routes,
}


@contextmanager
def open_simulator(
    name: str, data_dir: Path, settings: Settings, *, webhook_url: str, secret: str
) -> Iterator[Starlette]:
    """The simulator ``name`` on its state in ``data_dir``. Raises ``AlreadyRunning`` when another has that open."""
    ledger = Ledger(ledger_path(data_dir, name))
    try:
        courier = Courier(ledger, url=webhook_url, secret=secret, speed=settings.speed)
        desk = Desk(ledger=ledger, courier=courier, settings=settings)
        yield application(name, desk, ROUTES[name](desk))
    finally:
        ledger.close()
