"""Queue ``oms-routing``: what stock is worth where it lies, worked out from what was ordered lately."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.store import policies, stock_values
from activities.store.network import network
from activities.store.stock_values import Shelf
from activities.store.store import Store
from models.network import Network
from models.values import ValuesWorkedOut, WorkOutValues
from policies.document import Policy
from policies.routing.problem import StockFigures
from workflows import steps

# The forecast needs numpy, which a worker with routing processes of its own does without until a run is due.
if TYPE_CHECKING:
    from policies.routing.forecast import Forecast, Past

_DAY = timedelta(days=1)
_NOT_USED = "the policy in force uses neither look-ahead nor markdown"
_BEAT_SECONDS = 10.0


class StockValueActivities:
    """Work out shadow prices and sell-through, under the policy in force, and keep them for the orders to come."""

    def __init__(self, store: Store, *, most_skus: int = stock_values.MOST_SKUS) -> None:
        self._store = store
        self._most_skus = most_skus

    @implements(steps.WORK_OUT_STOCK_VALUES)
    @speaks_temporal
    async def work_out_stock_values(self, asked: WorkOutValues) -> ValuesWorkedOut:
        """What the run found, which is kept; a run that was through answers the same again."""
        async with self._store.transaction() as session:
            known = await stock_values.run_of(session, asked.run_id)
            if known is not None:
                return known
            policy = await policies.active(session)
            if not (asked.forced or policy.look_ahead.percent or policy.document.markdown):
                return ValuesWorkedOut(run_id=asked.run_id, worked_out_at=asked.now, skipped=_NOT_USED)
        async with _beating():
            return await self._work_out(asked, policy)

    async def _work_out(self, asked: WorkOutValues, policy: Policy) -> ValuesWorkedOut:
        await asyncio.to_thread(_load)
        from policies.routing.forecast import LEAST_LINES, METHOD  # noqa: PLC0415

        async with self._store.transaction() as session:
            read = await self._read(session, asked, policy)
        forecast = await asyncio.to_thread(read.forecast)
        prices: dict[tuple[str, str], int] = {}
        blocks = forecast.blocks()
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            prices |= {(one.sku, one.node): one.mills for one in block}
        priced = frozenset(forecast.skus)
        result = ValuesWorkedOut(
            run_id=asked.run_id,
            worked_out_at=asked.now,
            method=METHOD,
            policy=policy.label,
            window_days=read.window_days,
            horizon_days=policy.look_ahead.horizon_days,
            least_lines=LEAST_LINES,
            orders=read.past.orders,
            skus=read.skus,
            priced=len(priced),
            priced_rows=len(prices),
            left_out=read.left_out,
            countries_left_out=forecast.countries_left_out,
        )
        async with self._store.transaction() as session:
            await stock_values.keep_run(session, result, _figures(read.shelves, priced, prices))
        return result

    async def _read(self, session: AsyncSession, asked: WorkOutValues, policy: Policy) -> "_Read":
        from policies.routing.forecast import Ordered, Past  # noqa: PLC0415

        terms = policy.look_ahead
        since, until = asked.now - terms.window_days * _DAY, asked.now
        chosen = await stock_values.skus_to_value(session, since, until, self._most_skus)
        window = await stock_values.window(session, since, until)
        supply = await stock_values.next_supply(session, chosen.skus, until)
        sold = await stock_values.sold(session, chosen.skus, since, until)
        # A shop that opened last week has not sold a month's worth in it.
        span = until - (window.first or since)
        return _Read(
            network=await network(session),
            window_days=terms.window_days,
            past=Past(
                span_days=max(span / _DAY, 1.0),
                orders=window.orders,
                units=window.units,
                ordered=[Ordered(*one) for one in sold],
            ),
            shelves=await stock_values.shelves(session, chosen.skus, since, until),
            days_ahead={
                sku: min(supply.get(sku, terms.horizon_days), terms.horizon_days) for sku in chosen.skus
            },
            skus=len(chosen.skus),
            left_out=chosen.left_out,
        )


@dataclass(frozen=True)
class _Read:
    """All that a run looks at."""

    network: Network
    window_days: int
    past: "Past"
    shelves: Sequence[Shelf]
    days_ahead: Mapping[str, int]
    skus: int
    left_out: int

    def forecast(self) -> "Forecast":
        """The prices that are to be worked out from it."""
        from policies.routing.forecast import Forecast  # noqa: PLC0415

        available = {(one.sku, one.node): one.available for one in self.shelves}
        return Forecast(self.network, self.past, available, self.days_ahead)


def _load() -> None:
    import policies.routing.forecast  # noqa: PLC0415, F401


@asynccontextmanager
async def _beating() -> AsyncIterator[None]:
    """Tell the engine that the work goes on, also while the database reads for long."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT_SECONDS)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


def _figures(
    shelves: Sequence[Shelf], priced: Collection[str], prices: Mapping[tuple[str, str], int]
) -> Iterator[StockFigures]:
    for one in shelves:
        yield StockFigures(
            node=one.node,
            sku=one.sku,
            price_mills=prices.get((one.sku, one.node), 0) if one.sku in priced else None,
            sold=one.sold,
            on_hand=one.on_hand,
        )
