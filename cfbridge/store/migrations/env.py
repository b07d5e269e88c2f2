"""How does alembic reach the store? By the connection that `cfbridge.store` opened, inside its transaction."""

from alembic import context

from cfbridge.store import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
with context.begin_transaction():
    context.run_migrations()
