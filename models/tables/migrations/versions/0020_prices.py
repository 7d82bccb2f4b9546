"""Price lists of business customers: versions with their prices, and whom each list is for."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020_prices"
down_revision = "0019_lots"
branch_labels = None
depends_on = None

_WHOSE = "hashtextextended((kind || ':' || currency || ':' || assignee), 0)::numeric"

# Reviews and amendments name versions: what was once loaded stays readable as it was.
_KEPT = """
CREATE FUNCTION price_list_version_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was loaded into a price list does not change: load its next version'
        USING ERRCODE = 'restrict_violation';
END $$
"""


def _moment(name: str, *, nullable: bool = False) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=nullable)


def _integer(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "price_lists",
        _moment("created_at"),
        _moment("updated_at"),
        _text("list_id"),
        _text("currency"),
        _moment("valid_from"),
        _moment("valid_until"),
        _integer("version"),
        sa.CheckConstraint("version >= 1", name=op.f("ck_price_lists_version")),
        sa.CheckConstraint("valid_from < valid_until", name=op.f("ck_price_lists_validity")),
        sa.PrimaryKeyConstraint("list_id", name=op.f("pk_price_lists")),
        sa.UniqueConstraint(
            "list_id", "currency", "valid_from", "valid_until", name="uq_price_lists_assignable"
        ),
    )
    op.create_table(
        "price_list_versions",
        _text("list_id"),
        _integer("version"),
        _text("name"),
        _moment("valid_from"),
        _moment("valid_until"),
        _text("content_hash"),
        _integer("price_count"),
        _moment("loaded_at"),
        _text("loaded_by"),
        _text("reason", nullable=True),
        sa.CheckConstraint("version >= 1", name=op.f("ck_price_list_versions_version")),
        sa.CheckConstraint("valid_from < valid_until", name=op.f("ck_price_list_versions_validity")),
        sa.ForeignKeyConstraint(
            ["list_id"], ["price_lists.list_id"], name=op.f("fk_price_list_versions_list_id_price_lists")
        ),
        sa.PrimaryKeyConstraint("list_id", "version", name=op.f("pk_price_list_versions")),
    )
    op.create_table(
        "prices",
        _text("list_id"),
        _integer("version"),
        _text("sku"),
        _integer("min_quantity"),
        sa.Column("unit_price_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "min_quantity >= 1 AND min_quantity <= 1000000", name=op.f("ck_prices_min_quantity")
        ),
        sa.CheckConstraint(
            "unit_price_minor >= 0 AND unit_price_minor <= 1000000000000", name=op.f("ck_prices_unit_price")
        ),
        sa.ForeignKeyConstraint(
            ["list_id", "version"],
            ["price_list_versions.list_id", "price_list_versions.version"],
            name=op.f("fk_prices_list_id_price_list_versions"),
        ),
        sa.PrimaryKeyConstraint("list_id", "version", "sku", "min_quantity", name=op.f("pk_prices")),
    )
    op.create_table(
        "price_assignments",
        sa.Column("assignment_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("list_id"),
        _text("currency"),
        _moment("valid_from"),
        _moment("valid_until"),
        _text("kind"),
        _text("assignee"),
        _moment("assigned_at"),
        _text("assigned_by"),
        _text("reason", nullable=True),
        _moment("ended_at", nullable=True),
        _text("ended_by", nullable=True),
        sa.CheckConstraint(
            "kind IN ('customer', 'account', 'every_business')", name=op.f("ck_price_assignments_kind")
        ),
        sa.CheckConstraint(
            "(kind = 'every_business') = (assignee = '')", name=op.f("ck_price_assignments_assignee")
        ),
        sa.CheckConstraint("valid_from < valid_until", name=op.f("ck_price_assignments_validity")),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (ended_by IS NULL)", name=op.f("ck_price_assignments_ended")
        ),
        sa.ForeignKeyConstraint(
            ["list_id", "currency", "valid_from", "valid_until"],
            [
                "price_lists.list_id",
                "price_lists.currency",
                "price_lists.valid_from",
                "price_lists.valid_until",
            ],
            name=op.f("fk_price_assignments_list_id_price_lists"),
            onupdate="CASCADE",
        ),
        sa.PrimaryKeyConstraint("assignment_id", name=op.f("pk_price_assignments")),
        postgresql.ExcludeConstraint(
            (sa.text(f"numrange({_WHOSE}, {_WHOSE}, '[]')"), "&&"),
            (sa.text("tstzrange(valid_from, valid_until)"), "&&"),
            name="ex_price_assignments_one_list",
            using="gist",
            where=sa.text("ended_at IS NULL"),
        ),
    )
    op.create_index(
        "ix_price_assignments_assignee",
        "price_assignments",
        ["kind", "assignee"],
        postgresql_where="ended_at IS NULL",
    )
    op.create_index("ix_price_assignments_list", "price_assignments", ["list_id"])
    op.execute(_KEPT)
    for table in ("price_list_versions", "prices"):
        op.execute(
            f"CREATE TRIGGER price_list_version_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION price_list_version_kept()"
        )


def downgrade() -> None:
    for table in ("price_assignments", "prices", "price_list_versions", "price_lists"):
        op.drop_table(table)
    op.execute("DROP FUNCTION price_list_version_kept")
