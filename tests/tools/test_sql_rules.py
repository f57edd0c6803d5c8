"""What a statement may say, and how its result reads."""

from __future__ import annotations

import pytest

from agentrl.errors import ToolError
from agentrl.tools.sql import SqlDatabase

SETUP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
INSERT INTO item VALUES (1, 'tea', 2.5), (2, 'mug', 7.0), (3, NULL, 1.0);
"""


@pytest.fixture
def readable():
    with SqlDatabase(setup=SETUP) as database:
        yield database


@pytest.fixture
def writable():
    with SqlDatabase(setup=SETUP, writable=True) as database:
        yield database


def test_the_schema_can_be_read_and_not_changed(readable, writable):
    assert "CREATE TABLE item" in readable.query("SELECT sql FROM sqlite_master")
    for statement in ("SAVEPOINT a", "DETACH main", "ANALYZE", "UPDATE sqlite_master SET sql = ''", "VACUUM"):
        with pytest.raises(ToolError):
            writable.query(statement)
    assert writable.query("REINDEX") == "0 rows changed"
    assert writable.query("DELETE FROM item WHERE id = 1 RETURNING id, name") == "id | name\n1 | tea"


def test_a_cell_keeps_to_its_line(readable):
    text = readable.query("SELECT 'a' || char(10, 13) || 'Error: ok' AS x, 1 -- note")
    assert text.split("\n") == ["x | 1 -- note", "a \rError: ok | 1"]
