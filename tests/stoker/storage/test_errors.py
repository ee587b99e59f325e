"""What the database refuses is logged: no value that was sent is in it."""

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from stoker.storage.engine import Database

INSERT = text("INSERT INTO worker (name, engine_secret) VALUES (:name, :secret)")


def test_an_error_names_no_value(database: Database) -> None:
    sent = {"name": "w1", "secret": "a-secret"}
    with pytest.raises(SQLAlchemyError) as raised, database.write() as session:
        session.execute(INSERT, sent)
    said = "".join(traceback.format_exception(raised.value))
    assert "a-secret" not in said
    assert "INSERT INTO worker" in str(raised.value)
    assert "null" in str(raised.value).lower(), "what is wrong is still said"
