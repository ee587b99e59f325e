"""Alembic's entry: runs on the connection that `stoker.storage.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

from stoker.storage import tables as tables  # the import fills SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
