"""How much can be promised, and from when: stock that is free now, and supply with dates."""

from collections import Counter
from collections.abc import Sequence
from datetime import date

from models.availability import FromThen, Inbound, Promise


def promisable(free: int, inbound: Sequence[Inbound], today: date) -> Promise:
    """What a row can promise of which ``free`` units are neither reserved nor kept back.

    ``free`` may be below zero, as safety stock may be short: supply fills that first. Supply whose day has passed is
    late, and nobody knows when it comes: it is not promised until somebody says so.
    """
    arriving = Counter[date]()
    for supply in inbound:
        if supply.on >= today and supply.quantity > 0:
            arriving[supply.on] += supply.quantity
    promised = available = max(free, 0)
    later = []
    for day in sorted(arriving):
        free += arriving[day]
        if free > promised:
            promised = free
            later.append(FromThen(on=day, quantity=promised))
    return Promise(available=available, later=tuple(later))


def together(promises: Sequence[Promise]) -> Promise:
    """What several rows can promise in all."""
    more = Counter[date]()
    for promise in promises:
        before = promise.available
        for step in promise.later:
            more[step.on] += step.quantity - before
            before = step.quantity
    available = total = sum(promise.available for promise in promises)
    later = []
    for day in sorted(more):
        total += more[day]
        later.append(FromThen(on=day, quantity=total))
    return Promise(available=available, later=tuple(later))


def limited(promise: Promise, most: int | None) -> Promise:
    """``promise``, but never more than ``most`` in all: goods that arrive do not make a limit larger."""
    if most is None:
        return promise
    most = max(most, 0)
    available, later = min(promise.available, most), []
    reached = available
    for step in promise.later:
        if min(step.quantity, most) > reached:
            reached = min(step.quantity, most)
            later.append(FromThen(on=step.on, quantity=reached))
    return Promise(available=available, later=tuple(later))
