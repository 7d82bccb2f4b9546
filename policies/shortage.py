"""What becomes of an order that cannot be filled as a whole: all of it waits, or what there is goes ahead."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from models.base import Contract
from models.plan import PlannedLine
from models.policy import Substitution
from policies.routing.problem import DemandLine


class ShortagePolicy(Contract):
    """When a part may go ahead of the rest, where the order's document does not say.

    ``part_at_least_percent``: of the value of the order's goods; at 100 only what costs nothing is left behind. Of each
    order one part goes ahead, so that nobody gets a parcel for every unit: the rest waits until there is all of it.
    """

    version: str = "shortage-2026-11-1"
    part_at_least_percent: int = Field(default=50, ge=1, le=100)
    substitute: Substitution = Substitution.IF_AGREED


def part_ahead(
    lines: Sequence[DemandLine],
    missing: Sequence[PlannedLine],
    prices: Mapping[str, int],
    policy: ShortagePolicy,
    allowed: bool | None = None,
) -> tuple[DemandLine, ...]:
    """What of ``lines`` may go ahead without what is ``missing``; nothing where all of it has to wait.

    Args:
        prices: of a unit of each line, by line id, in minor units.
        allowed: what the order's document says of parts; None leaves it to the policy.
    """
    lacking = Counter[str]()
    for line in missing:
        lacking[line.line_id] += line.quantity
    part = tuple(
        line.model_copy(update={"quantity": quantity})
        for line in lines
        if (quantity := line.quantity - lacking[line.line_id]) > 0
    )
    if allowed is False or not lacking or not part:
        return ()
    if allowed is None:
        # Of goods that cost nothing the units count.
        free = not any(prices[line.line_id] for line in lines)
        whole, ahead = (
            sum(line.quantity * (1 if free else prices[line.line_id]) for line in some)
            for some in (lines, part)
        )
        if ahead * 100 < whole * policy.part_at_least_percent:
            return ()
    return part
