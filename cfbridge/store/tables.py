"""How does what is held lie in SQL? One table each; the constraints, not the code, guard against double allocation."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

org_networks = sa.Table(
    "org_networks",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("emptied_at", sa.Double),
)

# In use and at rest alike: an address has one row, so it has one holder. Pools never overlap, so they share the space.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("workload", sa.Text, nullable=False),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("cell", sa.Text, nullable=False),
    sa.Column("released_at", sa.Double),
)

snat_addresses = sa.Table(
    "snat_addresses",
    metadata,
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("org", sa.Text, nullable=False),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("released_at", sa.Double),
)

# Rows are never deleted, so no id comes back as another rule's.
rule_ids = sa.Table(
    "rule_ids",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("id", sa.Integer, nullable=False, unique=True),
    sa.CheckConstraint("id > 0 AND id < 1073741824", name="rule_id_has_30_bits"),
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# What foundations confirmed last, whole kinds at a time: only ever read and written as one piece.
confirmed = sa.Table(
    "confirmed",
    metadata,
    sa.Column("foundation", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

# What people published, never changed and never deleted.
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

# Who did what; only ever appended.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer),
    sa.Column("detail", sa.Text, nullable=False),
)

leader = sa.Table(
    "leader",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="one_leader"),
)
