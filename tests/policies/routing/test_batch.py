"""The cheapest nodes of many orders at once, against trying everything."""

from itertools import product

import numpy as np
import pytest

from policies.routing import batch
from policies.routing.batch import NEVER, cheapest_nodes, serving_nodes
from policies.routing.held_orders import HeldOrders
from tests.policies.routing.held import some_orders


def tried(held: HeldOrders, order: int) -> int:
    """The least that an order can cost, every line at every node or nowhere."""
    lines = range(int(held.first_line[order]), int(held.first_line[order + 1]))
    best = None
    for nodes in product(range(-1, held.nodes), repeat=len(lines)):
        cost = 0
        for line, node in zip(lines, nodes, strict=True):
            there = node >= 0 and held.stock[held.sku[line], node] >= held.quantity[line]
            cost += int(held.line[line, node]) if there else NEVER if node >= 0 else int(held.unfilled[line])
        opened = {node for node in nodes if node >= 0}
        cost += sum(int(held.opening[order, node]) for node in opened)
        cost += int(held.split[order]) * max(len(opened) - 1, 0)
        best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_the_batch_costs_what_trying_everything_finds(seed: int, nodes: int) -> None:
    held = some_orders(seed, nodes=nodes)
    orders = held.priced(np.zeros_like(held.stock), np.zeros_like(held.capacity))
    found = cheapest_nodes(orders)
    assert found.cost.tolist() == [tried(held, order) for order in range(held.orders)]
    assert found.exact.all()
    assert (found.bound == found.cost).all()
    # The nodes that it names do cost that.
    assert held.costs(serving_nodes(orders, found.nodes)).tolist() == found.cost.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_both_exact_searches_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held = some_orders(seed, nodes=4, skus=9, most_lines=8, orders=30)
    orders = held.priced(np.zeros_like(held.stock), np.zeros_like(held.capacity))
    mixed = cheapest_nodes(orders).cost.tolist()
    monkeypatch.setattr(batch, "MOST_NODES_IN_ALL_SETS", 0)
    assert cheapest_nodes(orders).cost.tolist() == mixed


@pytest.mark.parametrize("seed", range(6))
def test_an_order_too_large_says_so_and_its_bound_is_below_the_optimum(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = some_orders(seed, nodes=5, skus=20, most_lines=18, orders=30)
    orders = held.priced(np.zeros_like(held.stock), np.zeros_like(held.capacity))
    best = cheapest_nodes(orders)
    monkeypatch.setattr(batch, "MOST_NODES_IN_ALL_SETS", 0)
    found = cheapest_nodes(orders)
    assert found.exact.tolist() == (held.lines_of <= 12).tolist()
    assert (found.bound <= best.cost).all()
    assert (best.cost <= found.cost).all()
    assert held.costs(serving_nodes(orders, found.nodes)).tolist() == found.cost.tolist()
