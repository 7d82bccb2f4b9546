"""Migrations only add: the version before must go on working on what a later one made of the database.

Going back to the image before (docs/operate.md, 7) is what an operator does when an upgrade went wrong, and ``migrate``
leaves a newer database as it is. So every migration after the first is played to a recorder that lets pass what old
code cannot notice, and nothing else.
"""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from models.tables.migrations import versions
from tests.architecture.sources import REPOSITORY

FOLDER = Path(str(versions.__file__)).parent
LATER = sorted(FOLDER.glob("[0-9]*.py"))[1:]

# (migration, operation, on what): why it may be. Nothing below 0011 was ever part of a version that somebody ran.
_UNPUBLISHED = "older than the first published version: no image before it is left to go back to"
_WIDENED = "the check is made again with more values; all that old code writes still passes"
_KNOWN_CURRENCY = (
    "every version has written nothing but these currencies, and amounts that it could read again"
)
ALLOWED = {
    ("0002", "alter_column", "intake.tries"): f"takes the default away: {_UNPUBLISHED}",
    (
        "0002",
        "create_check_constraint",
        "intake",
    ): "on a column that old code does not know, so does not write",
    ("0003", "execute", "UPDATE late_events"): "fills the column that is new",
    ("0003", "alter_column", "late_events.order_id"): f"becomes NOT NULL: {_UNPUBLISHED}",
    ("0003", "drop_index", "late_events"): "an index that is not unique: old code is slower at most",
    ("0004", "drop_constraint", "notifications"): _WIDENED,
    ("0004", "create_check_constraint", "notifications"): _WIDENED,
    ("0005", "drop_constraint", "review_tasks"): _WIDENED,
    ("0005", "create_check_constraint", "review_tasks"): _WIDENED,
    ("0006", "drop_constraint", "notifications"): _WIDENED,
    ("0006", "create_check_constraint", "notifications"): _WIDENED,
    ("0006", "drop_constraint", "review_tasks"): _WIDENED,
    ("0006", "create_check_constraint", "review_tasks"): _WIDENED,
    ("0006", "drop_constraint", "shipments"): _WIDENED,
    ("0006", "create_check_constraint", "shipments"): _WIDENED,
    ("0006", "drop_constraint", "shipping_operations"): _WIDENED,
    ("0006", "create_check_constraint", "shipping_operations"): _WIDENED,
    ("0009", "drop_constraint", "review_tasks"): _WIDENED,
    ("0009", "create_check_constraint", "review_tasks"): _WIDENED,
    ("0009", "alter_column", "orders.version"): "a wider integer; Python's is one and the same",
    ("0009", "alter_column", "shipments.version"): "a wider integer; Python's is one and the same",
    ("0017", "drop_constraint", "notifications"): _WIDENED,
    ("0017", "create_check_constraint", "notifications"): _WIDENED,
    ("0016", "execute", "CREATE FUNCTION"): "called by the trigger below alone",
    ("0016", "execute", "CREATE TRIGGER"): "on a table that this very migration makes",
    ("0020", "execute", "CREATE FUNCTION"): "called by the trigger below alone",
    ("0020", "execute", "CREATE TRIGGER"): "on tables that this very migration makes",
    ("0027", "execute", "CREATE FUNCTION"): "called by the trigger below alone",
    ("0027", "execute", "CREATE TRIGGER"): "on a table that this very migration makes",
    ("0014", "execute", "ALTER TABLE"): "how often a table that is new is vacuumed",
    ("0014", "execute", "CREATE FUNCTION"): "nothing of what is there calls it but the triggers below",
    ("0014", "execute", "CREATE TRIGGER"): "writes into tables that are new, and only if somebody subscribes",
    ("0014", "execute", "CREATE CONSTRAINT"): "as above, at the end of the transaction; it refuses nothing",
    ("0014b", "execute", "CREATE OR"): "what the outbox says of stock; old code does not read it",
    ("0014b", "execute", "CREATE FUNCTION"): "called by the trigger below only",
    (
        "0014b",
        "execute",
        "CREATE CONSTRAINT",
    ): "writes into the outbox at the end of the transaction; refuses nothing",
    (
        "0014b",
        "execute",
        "DROP TRIGGER",
    ): "of the outbox, never part of a published version; the ledger's takes its place",
    (
        "0012",
        "create_check_constraint",
        "stock",
    ): "on a column that old code does not know, so does not write",
    ("0012", "execute", "CREATE FUNCTION"): "old code calls none of them",
    (
        "0012",
        "execute",
        "CREATE TRIGGER",
    ): "writes down what old code changes as unexplained; refuses only TRUNCATE",
    ("0012", "execute", "INSERT INTO"): "fills the table that is new",
    ("0013", "execute", "INSERT INTO"): "the chart of accounts, into a table that is new",
    ("0013", "execute", "CREATE FUNCTION"): "called by what is new only",
    ("0013", "execute", "CREATE TRIGGER"): (
        "on tables that are new, and post_to_ledger: it reads what old code confirms and writes to new tables; "
        "tests/activities/store/test_ledger.py lets old statements run into it"
    ),
    ("0013", "execute", "CREATE CONSTRAINT"): "constraint triggers on tables that are new",
    ("0013b", "execute", "CREATE FUNCTION"): "called by the triggers below only",
    ("0013b", "execute", "CREATE TRIGGER"): "for entries with an instrument, which old code never writes",
    ("0013b", "execute", "CREATE CONSTRAINT"): "as above",
    ("0021", "drop_constraint", "order_tenders"): _WIDENED,
    ("0021", "create_check_constraint", "order_tenders"): (
        f"of the kind: {_WIDENED}; of instead_of: on a column that old code does not know, so does not write"
    ),
    ("0018", "execute", "CREATE FUNCTION"): "called by what is new, and by the functions below",
    ("0018", "execute", "CREATE OR"): (
        "functions of 0012 and of the outbox that old code calls: without a rule, which only new code writes, they do"
        " what they did"
    ),
    (
        "0018",
        "execute",
        "CREATE TRIGGER",
    ): "counts for rules and writes into tables that are new; refuses nothing",
    (
        "0019",
        "create_check_constraint",
        "orders",
    ): "on a column that old code does not know, so does not write",
    ("0019", "drop_constraint", "reconciliation_differences"): _WIDENED,
    ("0019", "create_check_constraint", "reconciliation_differences"): _WIDENED,
    ("0019", "execute", "CREATE FUNCTION"): "called by what is new, and by the functions and triggers below",
    ("0019", "execute", "DO $do$"): (
        "adds to functions of 0012, 0014 and 0018 what they say of rows with lots; of others they say what they did"
    ),
    ("0019", "execute", "CREATE TRIGGER"): (
        "on tables that are new, and on reserved units: those of rows without lots, which only new code gives any, "
        "pass; those of others get lots whoever reserves them"
    ),
    (
        "0019",
        "execute",
        "CREATE CONSTRAINT",
    ): "for rows that have lots; what old code changes of them is settled",
    ("0023", "execute", "CREATE FUNCTION"): "called by the triggers below alone",
    (
        "0023",
        "execute",
        "CREATE TRIGGER",
    ): "refuse what no version does: to forget or change what was confirmed, answered, or is in the chart",
    ("0024", "execute", "CREATE FUNCTION"): "called by the function below alone",
    ("0024", "execute", "CREATE OR"): "answers the same, and sooner",
    ("0025", "execute", "CREATE OR"): "refuses less than before",
    ("0022", "create_check_constraint", "ledger_entries"): _KNOWN_CURRENCY,
    ("0022", "create_check_constraint", "payment_operations"): _KNOWN_CURRENCY,
    ("0022", "create_check_constraint", "customer_accounts"): _KNOWN_CURRENCY,
    ("0022", "create_check_constraint", "stored_value"): _KNOWN_CURRENCY,
    (
        "0022",
        "create_index",
        "ledger_transactions",
    ): "on a column that old code does not know, so does not write",
    ("0022", "execute", "CREATE CONSTRAINT"): "only for rows with a value in that column",
    ("0022", "execute", "CREATE FUNCTION"): "called by the triggers below alone",
    (
        "0022",
        "execute",
        "CREATE TRIGGER",
    ): "write down in a table that is new what old code changes; refuse nothing of it",
    ("0022", "drop_constraint", "reconciliation_differences"): _WIDENED,
    ("0022", "create_check_constraint", "reconciliation_differences"): _WIDENED,
    ("0022", "execute", "CREATE OR"): (
        "functions of 0001 and 0013: they refuse isolation levels that no version of ours writes in, and postings that "
        "none of them makes"
    ),
    ("0013", "execute", "DO $$"): "posts what was confirmed before, into tables that are new",
}


class Refusal(NamedTuple):
    """An operation that old code may notice."""

    operation: str
    on: str


class Recorder:
    """Stands for ``alembic.op``. Passes what only adds; everything else, also what it does not know, is kept."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self._new_tables: set[str] = set()

    def f(self, name: str) -> str:
        return name

    def create_table(self, name: str, *_parts: Any, **_options: Any) -> None:
        self._new_tables.add(name)

    def add_column(self, table: str, column: "sa.Column[Any]", **_options: Any) -> None:
        if not column.nullable and column.server_default is None:
            self._keep("add_column", f"{table}.{column.name}", table)

    def create_index(
        self, _name: str, table: str, *_columns: Any, unique: bool = False, **_options: Any
    ) -> None:
        if unique:
            self._keep("create_index", table, table)

    def create_check_constraint(self, _name: str, table: str, *_rest: Any, **_options: Any) -> None:
        self._keep("create_check_constraint", table, table)

    def alter_column(self, table: str, column: str, **_changes: Any) -> None:
        self._keep("alter_column", f"{table}.{column}", table)

    def drop_column(self, table: str, column: str, **_options: Any) -> None:
        self._keep("drop_column", f"{table}.{column}", table)

    def drop_constraint(self, _name: str, table: str, *_rest: Any, **_options: Any) -> None:
        self._keep("drop_constraint", table, table)

    def drop_index(self, name: str, table_name: str = "", **_options: Any) -> None:
        self._keep("drop_index", table_name or name, table_name)

    def execute(self, statement: Any, **_options: Any) -> None:
        # Whatever it is, it takes a person to say why old code does not notice: the first two words name it.
        self._keep("execute", " ".join(str(statement).split()[:2]), "")

    def __getattr__(self, operation: str) -> Callable[..., None]:
        """Every other operation: ``drop_table``, ``rename_table``, and those that are yet to come."""
        return lambda *given, **_options: self._keep(operation, str(given[0]) if given else "", "")

    def _keep(self, operation: str, on: str, table: str) -> None:
        # Old code has never seen a table that this very migration makes.
        if table not in self._new_tables:
            self.refused.append(Refusal(operation, on))


def refused_by(upgrade: Path | Callable[[Any], None]) -> list[Refusal]:
    """What a migration does that is more than adding."""
    recorder = Recorder()
    if callable(upgrade):
        upgrade(recorder)
    else:
        spec = spec_from_file_location(f"played_{upgrade.stem}", upgrade)
        assert spec is not None
        assert spec.loader is not None
        migration: Any = module_from_spec(spec)
        spec.loader.exec_module(migration)
        migration.op = recorder
        migration.upgrade()
    return recorder.refused


@pytest.mark.parametrize("migration", LATER, ids=lambda path: path.stem)
def test_a_migration_only_adds(migration: Path) -> None:
    number = migration.name.partition("_")[0]
    noticed = [found for found in refused_by(migration) if (number, *found) not in ALLOWED]
    assert noticed == [], (
        "the version before would notice this; split it over two versions, or say in ALLOWED why it does not"
    )


def test_no_exception_is_left_over() -> None:
    made = {(path.name.partition("_")[0], *found) for path in LATER for found in refused_by(path)}
    assert ALLOWED.keys() - made == set()


def test_the_changelog_names_every_migration() -> None:
    # Whoever goes back looks there whether what an upgrade added concerns them.
    told = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [path.stem for path in LATER if f"`{path.stem}`" not in told] == []


def _column(**options: Any) -> "sa.Column[Any]":
    return sa.Column("c", sa.String(), **options)


@pytest.mark.parametrize(
    "upgrade",
    [
        lambda op: op.drop_table("orders"),
        lambda op: op.rename_table("orders", "purchases"),
        lambda op: op.drop_column("orders", "state"),
        lambda op: op.alter_column("orders", "state", nullable=False),
        lambda op: op.alter_column("orders", "state", new_column_name="status"),
        lambda op: op.alter_column("orders", "state", server_default=None),
        lambda op: op.add_column("orders", _column(nullable=False)),
        lambda op: op.create_index("uq_orders_c", "orders", ["c"], unique=True),
        lambda op: op.create_unique_constraint("uq_orders_c", "orders", ["c"]),
        lambda op: op.create_foreign_key("fk_orders_c", "orders", "nodes", ["c"], ["node_id"]),
        lambda op: op.create_check_constraint("ck_orders_c", "orders", "c > 0"),
        lambda op: op.drop_constraint("uq_orders_c", "orders"),
        lambda op: op.drop_index("uq_orders_c", table_name="orders"),
        lambda op: op.execute("ALTER TABLE orders DROP COLUMN state"),
        lambda op: op.batch_alter_table("orders"),
    ],
)
def test_what_old_code_may_notice_is_refused(upgrade: Callable[[Any], None]) -> None:
    assert len(refused_by(upgrade)) == 1


def test_what_old_code_cannot_notice_passes() -> None:
    def upgrade(op: Any) -> None:
        op.add_column("orders", _column(nullable=True))
        op.add_column("orders", _column(nullable=False, server_default=""))
        op.create_index("ix_orders_c", "orders", ["c"])
        op.create_table("new", _column(primary_key=True))
        op.create_index("uq_new_c", "new", ["c"], unique=True)
        op.create_check_constraint("ck_new_c", "new", "c > ''")

    assert refused_by(upgrade) == []
