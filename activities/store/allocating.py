"""The rules of who may be promised what: set as a whole, and seen with what they have counted.

The database holds to them (migration 0018): a reservation is refused what belongs to somebody else.
"""

import hashlib
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.allocation import (
    EACH_NODE,
    AllocationPolicy,
    AllocationRule,
    AllocationState,
    AllocationUse,
    AllocationView,
)
from models.errors import Conflict, InvalidDocument, Problem
from models.tables.stock import (
    AllocationPolicyRow,
    NodeRow,
    StockAllocationRow,
    StockRow,
)

_SHOWN_USES = 100


async def allocate(session: AsyncSession, policy: AllocationPolicy) -> AllocationView:
    """Let the rules of ``policy`` hold from now on, and no others.

    What is promised already stays promised, also where a new rule would not have allowed it. Raises ``InvalidDocument``
    with every problem, and ``Conflict`` for an id that said something else and when ``policy.replaces`` is not in
    force.
    """
    # Waits for whoever changes stock, and they for this: a rule begins to hold between two reservations.
    await session.execute(text("LOCK TABLE stock IN EXCLUSIVE MODE"))
    document = policy.model_dump(mode="json", exclude={"document_id", "actor", "reason", "replaces"})
    known = await session.scalar(
        select(AllocationPolicyRow).where(col(AllocationPolicyRow.document_id) == policy.document_id)
    )
    if known is not None:
        if _fingerprint(known.document) != _fingerprint(document):
            raise Conflict(
                f"document {policy.document_id} was taken before, and said something else:"
                " send what is new under an id of its own"
            )
        return await allocation(session)
    before = await _last(session)
    version = 0 if before is None else before.version
    if policy.replaces not in (None, version):
        raise Conflict(
            f"version {version} is in force, not {policy.replaces}: look at it, and send your rules again"
        )
    if problems := await _problems(session, policy):
        raise InvalidDocument(tuple(problems))

    held = {rule.rule_id: _same(rule) for rule in await session.scalars(select(StockAllocationRow))}
    wanted = {rule.rule_id: _row(rule) for rule in policy.rules}
    # Rules that stay as they are go on counting.
    anew = [rule for rule_id, rule in wanted.items() if held.get(rule_id) != _same(rule)]
    gone = [rule_id for rule_id in held if rule_id not in wanted or wanted[rule_id] in anew]
    await session.execute(
        insert(AllocationPolicyRow).values(
            version=version + 1,
            document_id=policy.document_id,
            document=document,
            actor=policy.actor,
            reason=policy.reason,
            at=datetime.now(UTC),
        )
    )
    touched = await _skus(session, gone)
    await session.execute(delete(StockAllocationRow).where(col(StockAllocationRow.rule_id).in_(gone)))
    session.add_all(anew)
    await session.flush()
    await session.execute(
        text(
            "INSERT INTO stock_allocation_use (rule_id, sku, node, used) "
            "SELECT * FROM stock_allocation_counted() WHERE rule_id = ANY (:anew)"
        ),
        {"anew": [rule.rule_id for rule in anew]},
    )
    if touched:
        await _tell(session, touched)
    await tell_of_time(session)
    return await allocation(session)


async def allocation(session: AsyncSession) -> AllocationView:
    """The rules that stand, by their ids."""
    last = await _last(session)
    if last is None:
        return AllocationView(version=0)
    uses: dict[str, list[AllocationUse]] = defaultdict(list)
    rows = await session.execute(text(_USES), {"most": _SHOWN_USES})
    for rule_id, sku, node, used in rows:
        uses[rule_id].append(AllocationUse(sku=sku, node=node or None, used=used))
    now = datetime.now(UTC)
    rules = [
        AllocationRule.model_validate(row.model_dump(exclude={"told_in_force"}))
        for row in await session.scalars(select(StockAllocationRow).order_by(col(StockAllocationRow.rule_id)))
    ]
    return AllocationView(
        version=last.version,
        document_id=last.document_id,
        actor=last.actor,
        reason=last.reason,
        rules=tuple(
            AllocationState(rule=rule, in_force=_in_force(rule, now), uses=tuple(uses[rule.rule_id]))
            for rule in rules
        ),
    )


async def tell_of_time(session: AsyncSession) -> int:
    """Tell subscribers what is available now that rules have come into force or run out; returns how many had."""
    rows = (await session.execute(text(_TURNED))).all()
    if rows:
        await _tell(session, {sku for _, sku in rows})
    return len(rows)


async def _tell(session: AsyncSession, skus: set[str | None]) -> None:
    named = None if None in skus else sorted(sku for sku in skus if sku is not None)
    await session.execute(text("SELECT stock_tell(CAST(:skus AS text[]))"), {"skus": named})


async def _problems(session: AsyncSession, policy: AllocationPolicy) -> list[Problem]:
    nodes = set(await session.scalars(select(col(NodeRow.node_id))))
    skus = {rule.sku for rule in policy.rules if rule.sku is not None}
    known = set(
        await session.scalars(select(col(StockRow.sku)).where(col(StockRow.sku).in_(skus)).distinct())
    )
    times = Counter(rule.rule_id for rule in policy.rules)
    problems = []
    for number, rule in enumerate(policy.rules):
        at = f"rules[{number}]"
        if times[rule.rule_id] > 1:
            problems.append(
                _problem(
                    f"{at}.rule_id", "repeated_rule", f"{rule.rule_id} is the id of another rule as well"
                )
            )
        if rule.node not in (None, EACH_NODE) and rule.node not in nodes:
            problems.append(
                _problem(
                    f"{at}.node",
                    "unknown_node",
                    f"{rule.node} is no node: known are {', '.join(sorted(nodes))}",
                )
            )
        if rule.sku is not None and rule.sku not in known:
            problems.append(
                _problem(f"{at}.sku", "unknown_sku", f"{rule.sku} is stocked nowhere: look at its spelling")
            )
    return problems


async def _last(session: AsyncSession) -> AllocationPolicyRow | None:
    return await session.scalar(
        select(AllocationPolicyRow).order_by(col(AllocationPolicyRow.version).desc()).limit(1)
    )


async def _skus(session: AsyncSession, rules: list[str]) -> set[str | None]:
    found = await session.scalars(
        select(col(StockAllocationRow.sku)).where(col(StockAllocationRow.rule_id).in_(rules)).distinct()
    )
    return set(found)


def _row(rule: AllocationRule) -> StockAllocationRow:
    return StockAllocationRow(**rule.model_dump() | {"channels": [*rule.channels], "tiers": [*rule.tiers]})


def _same(rule: StockAllocationRow) -> dict[str, Any]:
    return rule.model_dump(exclude={"told_in_force"})


def _in_force(rule: AllocationRule, now: datetime) -> bool:
    begun = rule.valid_from is None or rule.valid_from <= now
    return begun and (rule.valid_until is None or now < rule.valid_until)


def _fingerprint(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _problem(path: str, code: str, message: str) -> Problem:
    return Problem(path=path, code=code, message=message)


_USES = """
SELECT rule_id, sku, node, used
  FROM (SELECT *, row_number() OVER (PARTITION BY rule_id ORDER BY used DESC, sku, node) AS place
          FROM stock_allocation_use WHERE used <> 0) AS use
 WHERE place <= :most ORDER BY rule_id, place
"""
_TURNED = """
UPDATE stock_allocations AS rule SET told_in_force = allocation_in_force(rule, now())
 WHERE told_in_force IS DISTINCT FROM allocation_in_force(rule, now()) RETURNING rule_id, sku
"""
