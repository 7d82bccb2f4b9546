"""Small batches of orders drawn from a seed."""

import numpy as np

from policies.routing.batch import NEVER
from policies.routing.held_orders import HeldOrders, Ints


def some_orders(
    seed: int, *, orders: int = 12, nodes: int = 4, skus: int = 6, most_lines: int = 4, capacity: int = 99
) -> HeldOrders:
    chance = np.random.default_rng(seed)
    counts = chance.integers(1, most_lines + 1, orders)
    lines = int(counts.sum())
    return HeldOrders(
        first_line=np.concatenate([[0], np.cumsum(counts)]),
        sku=np.concatenate([chance.choice(skus, count, replace=False) for count in counts]),
        quantity=chance.integers(1, 4, lines),
        opening=np.where(
            chance.random((orders, nodes)) < 0.1, NEVER, chance.integers(0, 900_000, (orders, nodes))
        ),
        split=chance.integers(0, 300_000, orders),
        line=np.where(
            chance.random((lines, nodes)) < 0.2, NEVER, chance.integers(0, 500_000, (lines, nodes))
        ),
        unfilled=chance.integers(100_000, 2_000_000, lines),
        stock=chance.integers(0, 8, (skus, nodes)),
        capacity=np.full(nodes, capacity),
    )


def taken(held: HeldOrders, node: Ints) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    """Units per SKU and node, and shipments per node, counted one by one."""
    units: dict[tuple[int, int], int] = {}
    shipments: dict[int, int] = {}
    for order in range(held.orders):
        opened = set()
        for line in range(int(held.first_line[order]), int(held.first_line[order + 1])):
            where = int(node[line])
            if where >= 0:
                key = int(held.sku[line]), where
                units[key] = units.get(key, 0) + int(held.quantity[line])
                opened.add(where)
        for where in opened:
            shipments[where] = shipments.get(where, 0) + 1
    return units, shipments
