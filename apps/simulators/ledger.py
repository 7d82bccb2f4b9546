"""What one simulator remembers: its effects, the answers it gave, and the webhooks it still owes.

One SQLite file, written in transactions and in WAL mode, so that killing the process at any point loses nothing that
was answered. All of it is used from one thread: a transaction runs from begin to commit without giving way.
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

Details = dict[str, object]

WAITING, DELIVERED, REFUSED, LOST = "waiting", "delivered", "refused", "lost"

_SCHEMA = """
create table if not exists effects (
    effect_id text primary key,
    kind text not null,
    key text not null,
    reference text not null,
    parent_id text,
    state text not null,
    amount_minor integer,
    currency text,
    at text not null,
    details text not null,
    unique (kind, key)
);
create index if not exists effects_by_parent on effects (parent_id);
create index if not exists effects_by_reference on effects (reference);
create table if not exists answers (
    key text primary key, fingerprint text not null, status integer not null, body text not null
);
create table if not exists called_off (
    kind text not null, key text not null, at text not null, primary key (kind, key)
);
create table if not exists webhooks (
    event_id text primary key,
    subject text not null,
    number integer not null,
    due_at real not null,
    next_try_at real not null,
    first_tried_at real,
    attempts integer not null default 0,
    state text not null default 'waiting',
    body text not null,
    last_error text,
    url text,
    unique (subject, number)
);
create table if not exists faults_struck (
    script text not null, fault integer not null, key text not null, times integer not null,
    primary key (script, fault, key)
);
create index if not exists webhooks_by_time on webhooks (state, next_try_at);
"""


# Files of an older version have no such column: what they hold last changed when it was made.
_CHANGED_AT = (
    "alter table effects add column changed_at text",
    "update effects set changed_at = at where changed_at is null",
)


@dataclass(frozen=True)
class Effect:
    """One thing that the simulator did. Amounts are minor units; ``at`` and ``changed_at`` are wall time."""

    effect_id: str
    kind: str
    key: str
    reference: str
    state: str
    at: str
    parent_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    details: Details | None = None
    changed_at: str | None = None


@dataclass(frozen=True)
class KeptAnswer:
    """What was answered to the request with a key, and that request's fingerprint."""

    fingerprint: str
    status: int
    body: str


@dataclass(frozen=True)
class OwedWebhook:
    """A webhook about what happens at ``due_at`` (Unix seconds), sent then or, if that is later, at ``next_try_at``.

    Those of one ``subject`` go out in the order of ``number``. ``url``: somebody else than the one who is told of all
    others; what is sent there is no webhook, but what a person would send.
    """

    event_id: str
    subject: str
    number: int
    due_at: float
    body: str
    next_try_at: float = 0.0
    first_tried_at: float | None = None
    attempts: int = 0
    state: str = WAITING
    url: str | None = None


class AlreadyRunning(Exception):
    """Another process serves the same file."""


class Ledger:
    """The open file. ``exclusive`` also takes the lock that a serving simulator holds for its lifetime."""

    def __init__(self, path: Path, *, exclusive: bool = True) -> None:
        if exclusive:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes on one file would each send every webhook.
            self._lock = path.with_suffix(".lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as taken:
                raise AlreadyRunning(f"another simulator is using {path}") from taken
        # A reader must not create the file of a simulator that never ran.
        mode = "rwc" if exclusive else "rw"
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        if exclusive:
            self._db.execute("pragma journal_mode=wal")
            # An answered request survives the end of the process; only a power cut may take the last moments.
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(_SCHEMA)
            if "changed_at" not in {row["name"] for row in self._db.execute("pragma table_info(effects)")}:
                with self.transaction():
                    for statement in _CHANGED_AT:
                        self._db.execute(statement)
            self._db.execute(
                "create index if not exists effects_by_change on effects (changed_at, effect_id)"
            )
            self._add_what_is_new()
        else:
            self._db.execute("pragma query_only=on")

    def _add_what_is_new(self) -> None:
        """A file that an older version made lacks a column."""
        if not any(row["name"] == "url" for row in self._db.execute("pragma table_info(webhooks)")):
            self._db.execute("alter table webhooks add column url text")

    def close(self) -> None:
        """Close the file; the lock ends with it."""
        self._db.close()
        lock = getattr(self, "_lock", None)
        if lock is not None:
            lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is written inside."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    # --- answers -----------------------------------------------------------------------------------------------------
    def answer(self, key: str) -> KeptAnswer | None:
        """What was answered to ``key`` before."""
        row = self._db.execute(
            "select fingerprint, status, body from answers where key = ?", (key,)
        ).fetchone()
        return None if row is None else KeptAnswer(**row)

    def keep_answer(self, key: str, answer: KeptAnswer) -> None:
        """Remember an answer for good."""
        self._db.execute(
            "insert into answers values (?, ?, ?, ?)", (key, answer.fingerprint, answer.status, answer.body)
        )

    # --- effects -----------------------------------------------------------------------------------------------------
    def record(self, effect: Effect) -> Effect:
        """Write down something done."""
        self._db.execute(
            "insert into effects (effect_id, kind, key, reference, parent_id, state, amount_minor, currency, at,"
            " details, changed_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                effect.effect_id,
                effect.kind,
                effect.key,
                effect.reference,
                effect.parent_id,
                effect.state,
                effect.amount_minor,
                effect.currency,
                effect.at,
                json.dumps(effect.details or {}),
                effect.at,
            ),
        )
        if effect.parent_id is not None:
            # What is drawn on something leaves less of it.
            self._db.execute(
                "update effects set changed_at = ? where effect_id = ?", (effect.at, effect.parent_id)
            )
        return effect

    def set_state(self, effect_id: str, state: str) -> None:
        """Move an effect on, e.g. a label from bought to voided."""
        self._db.execute(
            "update effects set state = ?, changed_at = ? where effect_id = ?",
            (state, wall_time(), effect_id),
        )

    def effect(self, kind: str, effect_id: str) -> Effect | None:
        """The effect with this id."""
        return self._one("select * from effects where kind = ? and effect_id = ?", kind, effect_id)

    def effect_of(self, kind: str, key: str) -> Effect | None:
        """The effect made under this idempotency key."""
        return self._one("select * from effects where kind = ? and key = ?", kind, key)

    def sum_of(self, kind: str, parent_id: str) -> int:
        """How much the effects of ``kind`` under a parent add up to, in minor units."""
        row = self._db.execute(
            "select coalesce(sum(amount_minor), 0) from effects where kind = ? and parent_id = ?",
            (kind, parent_id),
        ).fetchone()
        return int(row[0])

    def effects(self) -> list[Effect]:
        """Everything ever done, oldest first."""
        return [_effect(row) for row in self._db.execute("select * from effects order by rowid")]

    def changed(self, since: str, until: str, after: tuple[str, str], limit: int) -> list[Effect]:
        """What was done or changed from ``since`` to before ``until``, in that order, following ``after``."""
        rows = self._db.execute(
            "select * from effects where changed_at >= ? and changed_at < ? and (changed_at, effect_id) > (?, ?)"
            " order by changed_at, effect_id limit ?",
            (since, until, *after, limit),
        )
        return [_effect(row) for row in rows]

    def effects_for(self, reference: str) -> list[Effect]:
        """Everything done for an order or a shipment, oldest first."""
        rows = self._db.execute("select * from effects where reference = ? order by rowid", (reference,))
        return [_effect(row) for row in rows]

    def call_off(self, kind: str, key: str) -> None:
        """Refuse whatever comes under ``key`` from now on."""
        self._db.execute("insert or ignore into called_off values (?, ?, ?)", (kind, key, wall_time()))

    def is_called_off(self, kind: str, key: str) -> bool:
        """Whether ``key`` was called off before anything came under it."""
        return (
            self._db.execute("select 1 from called_off where kind = ? and key = ?", (kind, key)).fetchone()
            is not None
        )

    # --- webhooks ----------------------------------------------------------------------------------------------------
    def owe(self, webhook: OwedWebhook) -> None:
        """Plan a webhook."""
        self._db.execute(
            "insert into webhooks (event_id, subject, number, due_at, next_try_at, body, state, url)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                webhook.event_id,
                webhook.subject,
                webhook.number,
                webhook.due_at,
                max(webhook.due_at, webhook.next_try_at),
                webhook.body,
                webhook.state,
                webhook.url,
            ),
        )

    def next_number(self, subject: str) -> int:
        """The number for one more webhook about ``subject``."""
        row = self._db.execute(
            "select coalesce(max(number), 0) + 1 from webhooks where subject = ?", (subject,)
        )
        return int(row.fetchone()[0])

    def due_at(self, event_id: str) -> float | None:
        """When a planned webhook is or was due."""
        row = self._db.execute("select due_at from webhooks where event_id = ?", (event_id,)).fetchone()
        return None if row is None else float(row[0])

    def happened(self, subject: str, now: float) -> list[str]:
        """The bodies of the webhooks about ``subject`` that are due by ``now``, whether or not they were delivered."""
        rows = self._db.execute(
            "select body from webhooks where (subject = ? or subject like ?) and due_at <= ?"
            " group by body order by min(due_at), min(number)",
            (subject, f"{subject}#%", now),
        )
        return [row["body"] for row in rows]

    def forget_webhooks(self, subject: str, now: float) -> None:
        """Drop what is planned about ``subject`` and has not happened by ``now``."""
        self._db.execute(
            "delete from webhooks where (subject = ? or subject like ?) and due_at > ?",
            (subject, f"{subject}#%", now),
        )

    def next_webhooks(self, limit: int) -> list[OwedWebhook]:
        """The ones to try next, soonest first; a webhook waits for the earlier ones of its subject."""
        rows = self._db.execute(
            "select event_id, subject, number, due_at, body, next_try_at, first_tried_at, attempts, url"
            " from webhooks as w where state = 'waiting' and not exists ("
            "   select 1 from webhooks as e"
            "   where e.subject = w.subject and e.state = 'waiting' and e.number < w.number)"
            " order by next_try_at limit ?",
            (limit,),
        )
        return [OwedWebhook(**row) for row in rows]

    def settle_webhook(self, event_id: str, *, state: str, error: str | None) -> None:
        """Delivered, or refused for good."""
        self._db.execute(
            "update webhooks set state = ?, attempts = attempts + 1, last_error = ? where event_id = ?",
            (state, error, event_id),
        )

    def postpone_webhook(
        self, event_id: str, *, first_tried_at: float, next_try_at: float, error: str
    ) -> None:
        """Try again later."""
        self._db.execute(
            "update webhooks set first_tried_at = ?, next_try_at = ?, attempts = attempts + 1, last_error = ?"
            " where event_id = ?",
            (first_tried_at, next_try_at, error, event_id),
        )

    def webhook_counts(self) -> dict[str, int]:
        """How many webhooks are waiting, delivered and refused."""
        counts = {WAITING: 0, DELIVERED: 0, REFUSED: 0, LOST: 0}
        counts.update(self._db.execute("select state, count(*) from webhooks group by state").fetchall())
        return counts

    # --- faults ------------------------------------------------------------------------------------------------------
    def count_fault(self, script: str, fault: int, key: str) -> int:
        """Count that a fault struck under ``key``; how often it has by now."""
        row = self._db.execute(
            "insert into faults_struck values (?, ?, ?, 1)"
            " on conflict do update set times = times + 1 returning times",
            (script, fault, key),
        ).fetchone()
        return int(row[0])

    def _one(self, query: str, *values: str) -> Effect | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else _effect(row)


def wall_time() -> str:
    """Now, as it is written down."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _effect(row: sqlite3.Row) -> Effect:
    return Effect(
        effect_id=row["effect_id"],
        kind=row["kind"],
        key=row["key"],
        reference=row["reference"],
        parent_id=row["parent_id"],
        state=row["state"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        at=row["at"],
        details=json.loads(row["details"]),
        changed_at=row["changed_at"] if "changed_at" in row.keys() else None,  # noqa: SIM118 - a row is no mapping
    )
