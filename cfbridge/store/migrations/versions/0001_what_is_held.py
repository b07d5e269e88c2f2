"""What is held: subnets, leases, SNAT addresses, rule ids; settings; who leads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "org_networks",
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("emptied_at", sa.Double),
    )
    op.create_table(
        "leases",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("workload", sa.Text, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("cell", sa.Text, nullable=False),
        sa.Column("released_at", sa.Double),
    )
    op.create_table(
        "snat_addresses",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("released_at", sa.Double),
    )
    op.create_table(
        "rule_ids",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, nullable=False, unique=True),
        sa.CheckConstraint("id > 0 AND id < 1073741824", name="rule_id_has_30_bits"),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    leader = op.create_table(
        "leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="one_leader"),
    )
    op.bulk_insert(leader, [{"id": 1, "epoch": 0}])
