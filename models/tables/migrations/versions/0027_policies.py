"""The policy document: versions that one person proposes and another one approves. What a version says is kept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027_policies"
down_revision = "0026_decisions"
branch_labels = None
depends_on = None

_KEPT = """
CREATE FUNCTION policy_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'version % of the policy is kept: plans name it', OLD.version
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.version, NEW.request_id, NEW.base_version, NEW.document, NEW.document_hash)
       <> (OLD.version, OLD.request_id, OLD.base_version, OLD.document, OLD.document_hash)
       OR (NEW.reason, NEW.proposed_by, NEW.proposed_at) <> (OLD.reason, OLD.proposed_by, OLD.proposed_at)
       OR (OLD.decided_at IS NOT NULL AND (NEW.decided_by, NEW.decided_at, NEW.decided_because)
           IS DISTINCT FROM (OLD.decided_by, OLD.decided_at, OLD.decided_because))
       OR (OLD.state, NEW.state) NOT IN (('proposed', 'proposed'), ('proposed', 'active'), ('proposed', 'refused'),
           ('active', 'active'), ('active', 'replaced'), ('replaced', 'replaced'), ('refused', 'refused')) THEN
        RAISE EXCEPTION 'version % of the policy stays as it is: propose another one', OLD.version
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("document_hash", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("proposed_by", sa.String(), nullable=False),
        sa.Column("proposed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_because", sa.String(), nullable=True),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("backtest", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint(
            "state IN ('proposed', 'active', 'replaced', 'refused')", name=op.f("ck_policies_state")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_policies_version")),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_at IS NULL)", name=op.f("ck_policies_decided_at")
        ),
        sa.CheckConstraint(
            "(decided_at IS NULL) = (decided_by IS NULL)", name=op.f("ck_policies_decided_by")
        ),
        sa.CheckConstraint(
            "(state = 'replaced') = (replaced_at IS NOT NULL)", name=op.f("ck_policies_replaced_at")
        ),
        sa.CheckConstraint(
            "state NOT IN ('active', 'replaced') OR lower(btrim(decided_by)) <> lower(btrim(proposed_by))",
            name=op.f("ck_policies_two_people"),
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policies")),
    )
    op.create_index(
        "uq_policies_active", "policies", ["state"], unique=True, postgresql_where="state = 'active'"
    )
    op.create_index("uq_policies_request", "policies", ["request_id"], unique=True)
    op.execute(_KEPT)
    op.execute(
        "CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON policies FOR EACH ROW EXECUTE FUNCTION policy_kept()"
    )


def downgrade() -> None:
    op.drop_table("policies")
    op.execute("DROP FUNCTION policy_kept()")
