"""Which goods are sent instead of those that are short."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from models.amendment import LineChange
from models.order import MAX_LINES, DraftLine
from models.plan import PlannedLine


def substituted(
    lines: Sequence[DraftLine],
    missing: Sequence[PlannedLine],
    substitutes: Mapping[str, tuple[str, ...]],
    available: Mapping[str, int],
    ruled_out: Collection[str] = (),
) -> tuple[LineChange, ...]:
    """What to change so that nothing is missing; nothing where that cannot be had for every line.

    The units that are missing of a line are replaced, at the line's own price, by the best substitute of which there
    are as many; one that the order has already, or that replaces another line, is left alone.

    Args:
        available: units of each substitute that can be promised to the order, at all nodes together.
        ruled_out: substitutes that will not do.
    """
    short: Counter[str] = Counter()
    for one in missing:
        short[one.line_id] += one.quantity
    taken = {line.sku for line in lines}
    changes: list[LineChange] = []
    for line in lines:
        if not (units := short.pop(line.line_id, 0)):
            continue
        instead = next(
            (
                sku
                for sku in substitutes.get(line.sku, ())
                if sku not in taken and sku not in ruled_out and available.get(sku, 0) >= units
            ),
            None,
        )
        if instead is None:
            return ()
        taken.add(instead)
        changes += [
            # At its own price as well: for fewer units a price list may ask another one.
            LineChange(
                line_id=line.line_id,
                quantity=line.quantity - units,
                unit_price_minor=line.unit_price_minor,
            ),
            LineChange(
                sku=instead,
                quantity=units,
                unit_price_minor=line.unit_price_minor,
                description=f"instead of {line.sku}",
            ),
        ]
    return () if short or len(changes) > MAX_LINES else tuple(changes)


def said_of(changes: Sequence[LineChange]) -> str:
    """The replacements in words, such as ``2 × 22423 instead of 85123A``."""
    return ", ".join(
        f"{change.quantity} \N{MULTIPLICATION SIGN} {change.sku} {change.description}"
        for change in changes
        if change.sku is not None
    )
