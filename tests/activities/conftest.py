from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities.adapters.neighbours import Neighbours, open_neighbours
from activities.inventory import InventoryActivities
from activities.routing import RoutingActivities
from activities.store.store import Store
from policies.routing.router import CheapestNodeRouter
from tests.apps.simulators.running import NEIGHBOUR_TOKEN, Simulator, ask, running

# Slow enough that nothing is picked, collected or delivered by itself while a test looks.
_SPEED = 1.0


@dataclass(frozen=True)
class Street:
    """All four simulators as real processes, the adapters to them, and their statements."""

    near: Neighbours
    simulators: dict[str, Simulator]

    def effects(self, simulator: str, *, kind: str, reference: str) -> list[dict[str, Any]]:
        """What a simulator did of one kind for one order or shipment, oldest first."""
        statement = ask(self.simulators[simulator], "GET", "/statement").body
        return [
            effect
            for effect in statement["effects"]
            if effect["kind"] == kind and effect["reference"] == reference
        ]


@pytest.fixture
def inventory(store: Store) -> InventoryActivities:
    return InventoryActivities(store)


@pytest.fixture
def routing(store: Store) -> RoutingActivities:
    return RoutingActivities(store, CheapestNodeRouter())


@pytest.fixture(scope="session")
def running_simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Simulator]]:
    folder: Path = tmp_path_factory.mktemp("neighbours")
    four = {
        name: Simulator(name, folder, speed=_SPEED)
        for name in ("payment", "warehouse", "carrier", "messages")
    }
    with running(*four.values()):
        yield four


@pytest.fixture(scope="session")
async def street(running_simulators: dict[str, Simulator]) -> AsyncIterator[Street]:
    urls = [running_simulators[name].url for name in ("payment", "warehouse", "carrier", "messages")]
    async with open_neighbours(*urls, payment_token=NEIGHBOUR_TOKEN, carrier_token=NEIGHBOUR_TOKEN) as near:
        yield Street(near, running_simulators)
