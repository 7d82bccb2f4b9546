"""What carriers did with the parcels that they were given, by the outcomes that were kept."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store.store import Store
from policies.routing.carriers import CarrierModel, FrequencyTable, LegRecord

# What was longer ago says little of what a carrier does now.
_REMEMBERED = timedelta(days=365)
# It adds up a year of parcels; a few minutes more or less change none of it.
_READ_EVERY_SECONDS = 600.0


class CarrierExperience:
    """A model of carriers that is read from the store, at most every ten minutes in each process."""

    def __init__(self, store: Store, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._model: CarrierModel | None = None
        self._reading = asyncio.Lock()
        self._read_again_at = 0.0

    async def model(self) -> CarrierModel:
        """The model; what others ask for while it is read anew is answered by the one before."""
        if self._model is None:
            # At first all wait for one: each by itself would read a year of parcels.
            async with self._reading:
                made: CarrierModel | None = self._model
                return await self._read() if made is None else made
        return await self._read() if self._clock() >= self._read_again_at else self._model

    async def _read(self) -> CarrierModel:
        self._read_again_at = self._clock() + _READ_EVERY_SECONDS
        # In a transaction of its own: of half a million parcels it takes a second and a half.
        async with self._store.transaction() as session:
            records = await leg_records(session, datetime.now(UTC) - _REMEMBERED)
        self._model = made = FrequencyTable(records)
        return made


async def leg_records(session: AsyncSession, since: datetime) -> list[LegRecord]:
    """The parcels of each leg of whose delivery we learned after ``since``, by node, carrier and service."""
    rows = await session.execute(text(_RECORDS), {"since": since})
    return [LegRecord.model_validate(row) for row in rows.mappings()]


# A day late that has begun counts, as in what a late plan weighs.
_RECORDS = """
WITH delivered AS (
    SELECT details ->> 'node' AS node, details ->> 'carrier' AS carrier, details ->> 'service' AS service,
           greatest(ceil(extract(epoch FROM actual_at - promised_at) / 86400), 0) AS days_late,
           greatest(extract(epoch FROM actual_at - CAST(details ->> 'handed_over_at' AS timestamptz)) / 86400, 0)
               AS transit_days,
           details ->> 'handed_over_at' IS NOT NULL AS handed_over
      FROM outcomes
     WHERE kind = 'shipment' AND decision = 'delivered' AND known_at > :since
       AND actual_at IS NOT NULL AND promised_at IS NOT NULL)
SELECT node, carrier, service, count(*) AS parcels,
       count(*) FILTER (WHERE days_late > 0) AS late,
       CAST(sum(days_late) AS bigint) AS days_late,
       count(*) FILTER (WHERE handed_over) AS handed_over,
       CAST(coalesce(sum(transit_days) FILTER (WHERE handed_over), 0) AS float8) AS transit_days
  FROM delivered
 GROUP BY node, carrier, service
 ORDER BY node, carrier, service
"""
