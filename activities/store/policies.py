"""The policy in force, and every version there ever was."""

import copy
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.errors import NotFound
from models.policy import BacktestReport, PolicyDocument, PolicyEntry, PolicyHistory, PolicyState, PolicyView
from models.tables.policies import PolicyRow
from policies.document import Policy


def document_of(row: PolicyRow) -> PolicyDocument:
    """What a stored version says. Keys that a newer process wrote and this one does not know are left out."""
    try:
        return PolicyDocument.model_validate(row.document)
    except ValidationError as error:
        known = copy.deepcopy(row.document)
        for item in error.errors():
            if item["type"] != "extra_forbidden":
                raise
            *path, last = item["loc"]
            inner: Any = known
            for part in path:
                inner = inner[part]
            del inner[last]
        return PolicyDocument.model_validate(known)


async def active(session: AsyncSession) -> Policy:
    """The policy in force; version 0 is what is built in."""
    row = await active_row(session)
    if row is None:
        return Policy()
    return Policy(version=row.version, document=document_of(row))


async def of_version(session: AsyncSession, version: int) -> Policy:
    """Any version, in force or not; 0 is what is built in. Raises ``NotFound``."""
    if version == 0:
        return Policy()
    row = await row_of(session, version)
    return Policy(version=row.version, document=document_of(row))


async def view(session: AsyncSession, version: int | None = None) -> PolicyView:
    """A version as people look at it; None: the one in force. Raises ``NotFound``."""
    row = (
        await active_row(session) if version is None else await row_of(session, version) if version else None
    )
    if row is None:
        return PolicyView(version=0, document={}, effective=Policy().effective())
    return view_of(row)


async def history(session: AsyncSession) -> PolicyHistory:
    """All versions, the last first."""
    rows = list(await session.scalars(select(PolicyRow).order_by(col(PolicyRow.version).desc())))
    return PolicyHistory(
        active=next((row.version for row in rows if row.state == PolicyState.ACTIVE), 0),
        versions=tuple(_entry(row) for row in rows),
    )


async def active_row(session: AsyncSession) -> PolicyRow | None:
    """The row of the policy in force."""
    return await session.scalar(select(PolicyRow).where(col(PolicyRow.state) == PolicyState.ACTIVE))


async def row_of(session: AsyncSession, version: int) -> PolicyRow:
    """The row of a version. Raises ``NotFound``."""
    row = await session.get(PolicyRow, version, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no version {version} of the policy")
    return row


def view_of(row: PolicyRow) -> PolicyView:
    """A version as people look at it."""
    document = document_of(row)
    return PolicyView(
        version=row.version,
        entry=_entry(row),
        document=row.document,
        backtest=None if row.backtest is None else BacktestReport.model_validate(row.backtest),
        effective=Policy(version=row.version, document=document).effective(),
    )


def _entry(row: PolicyRow) -> PolicyEntry:
    return PolicyEntry.model_validate(
        row.model_dump(exclude={"document", "document_hash", "request_id", "base_version", "backtest"})
    )


async def keep_backtest(session: AsyncSession, version: int, report: BacktestReport) -> None:
    """Keep the last back test of a version, for whoever is to approve it. Raises ``NotFound``.

    Once it is decided, the one that it was decided by stays.
    """
    row = await session.get(PolicyRow, version, populate_existing=True, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no version {version} of the policy")
    if row.state == PolicyState.PROPOSED:
        row.backtest = report.model_dump(mode="json")
