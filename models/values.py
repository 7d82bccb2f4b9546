"""What stock is worth where it lies: how it is worked out, and what came of it."""

from pydantic import AwareDatetime

from models.base import Contract


class StockValuesRun(Contract):
    """Input of StockValuesWorkflow. ``forced``: also where the policy in force makes no use of values."""

    forced: bool = False


class WorkOutValues(Contract):
    """Work values out for ``run_id``, from what was known at ``now``. Done twice, it is done once."""

    run_id: str
    now: AwareDatetime
    forced: bool = False


class ValuesWorkedOut(Contract):
    """What a run found. ``skipped``: why it did not look.

    Of ``skus`` on the shelves that were looked at, ``priced`` were sold often enough for a price, and ``left_out`` were
    too many to be looked at; so were ``countries_left_out`` of those that orders go to. ``priced_rows``: at how many
    places a unit is worth something.
    """

    run_id: str
    worked_out_at: AwareDatetime
    method: str = ""
    policy: str = ""
    window_days: int = 0
    horizon_days: int = 0
    least_lines: int = 0
    orders: int = 0
    skus: int = 0
    priced: int = 0
    priced_rows: int = 0
    left_out: int = 0
    countries_left_out: int = 0
    skipped: str | None = None


class StockValue(Contract):
    """A SKU at a node as the last run found it, and what a unit of it weighs there now.

    ``price_mills``: thousandths of a minor unit, as it was worked out; None: too little was sold to know. ``sold``
    within the window; None: it has not been there that long. ``sell_through_percent``: of what was sold and what is
    there. ``look_ahead_mills`` and ``markdown_mills``: what counts now, by the policy in force.
    """

    sku: str
    node: str
    price_mills: int | None
    sold: int | None
    on_hand: int
    weeks_of_supply: float | None
    sell_through_percent: int | None
    look_ahead_mills: int
    markdown_mills: int


class StockValuePage(Contract):
    """The last run that worked values out, None before the first, and what it found, by SKU and node."""

    run: ValuesWorkedOut | None
    currency: str | None
    values: tuple[StockValue, ...]
    next_cursor: str | None = None
