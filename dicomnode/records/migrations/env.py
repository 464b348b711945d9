"""Runs the migrations on the connection that `dicomnode.records.db.migrate` hands over."""

from alembic import context

from dicomnode.records.accounts import Base  # with its own tables beside those of tables.py

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
