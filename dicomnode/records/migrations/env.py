"""Runs the migrations on the connection that `dicomnode.records.db.migrate` hands over."""

from alembic import context

from dicomnode.records.accounts import UserRow
from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.watch_tables import AlertRow

METADATA = UserRow.metadata
"""Of all tables: those of the other modules stand on those of `tables.py`."""
assert ModelRow.metadata is METADATA
assert AlertRow.metadata is METADATA
assert CommitmentRequestRow.metadata is METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
