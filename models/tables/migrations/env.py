"""Alembic's entry: runs the migrations on the connection that the store's migrate command hands over."""

from alembic import context

from models.tables.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
