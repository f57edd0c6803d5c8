from __future__ import annotations

import json
import sqlite3

import pytest

from agentrl.errors import ToolError
from agentrl.tools.sql import SqlDatabase, SqlLimits, sql_tool

SETUP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
INSERT INTO item VALUES (1, 'tea', 2.5), (2, 'mug', 7.0), (3, NULL, 1.0);
"""
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def readable():
    with SqlDatabase(setup=SETUP) as database:
        yield database


@pytest.fixture
def writable():
    with SqlDatabase(setup=SETUP, writable=True) as database:
        yield database


def test_a_table_and_json(readable):
    assert readable.query("SELECT id, name FROM item ORDER BY id") == "id | name\n1 | tea\n2 | mug\n3 | NULL"
    rows = json.loads(readable.query("SELECT name, price FROM item WHERE id = 2", "json"))
    assert rows == [{"name": "mug", "price": 7.0}]
    assert readable.query("SELECT id FROM item WHERE id > 9") == "id\n(no rows)"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO item VALUES (4, 'cap', 1)",
        "UPDATE item SET price = 0",
        "DELETE FROM item",
        "DROP TABLE item",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH DATABASE '/tmp/stolen.db' AS other",
        "attach/**/database ':memory:' as x",
        "VACUUM INTO '/tmp/stolen.db'",
        "PRAGMA table_info(item)",
        "SELECT * FROM pragma_table_info('item')",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT random()",
        "SELECT hex(randomblob(4))",
        "SELECT datetime('now')",
        "SELECT date()",
        "SELECT CURRENT_TIMESTAMP",
        "BEGIN",
        "WITH x AS (SELECT 1) DELETE FROM item",
    ],
)
def test_a_read_only_database_refuses(readable, statement):
    with pytest.raises(ToolError):
        readable.query(statement)
    assert readable.execute_trusted("SELECT count(*), sum(price) FROM item") == [(3, 10.5)]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE item",
        "CREATE TABLE t (x)",
        "ALTER TABLE item ADD COLUMN x",
        "DELETE FROM sqlite_master",
        "PRAGMA writable_schema = 1",
        "ATTACH DATABASE ':memory:' AS x",
        "CREATE TRIGGER t AFTER INSERT ON item BEGIN SELECT 1; END",
    ],
)
def test_a_writable_database_refuses_all_but_rows(writable, statement):
    with pytest.raises(ToolError):
        writable.query(statement)
    assert writable.query("SELECT count(*) AS n FROM item") == "n\n3"


def test_rows_can_be_changed_where_allowed(writable):
    assert writable.query("UPDATE item SET price = price * 2 WHERE id < 3") == "2 rows changed"
    assert writable.execute_trusted("SELECT price FROM item WHERE id = 2") == [(14.0,)]
    assert writable.query("DELETE FROM item WHERE id = 1") == "1 rows changed"


def test_only_one_statement(writable):
    with pytest.raises(ToolError, match="one statement"):
        writable.query("SELECT 1; DELETE FROM item")
    assert writable.query("SELECT count(*) AS n FROM item") == "n\n3"


def test_an_endless_statement_stops_by_steps_not_by_the_clock():
    with (
        SqlDatabase(limits=SqlLimits(max_steps=20_000, timeout_s=1e9)) as database,
        pytest.raises(ToolError, match="too many steps"),
    ):
        database.query(ENDLESS)


def test_the_wall_limit_holds_too():
    with (
        SqlDatabase(limits=SqlLimits(max_steps=10**15, timeout_s=0.0)) as database,
        pytest.raises(ToolError, match="longer than"),
    ):
        database.query(ENDLESS)


def test_an_interrupted_write_changes_nothing():
    setup = "CREATE TABLE n (x INTEGER);"
    with SqlDatabase(setup=setup, writable=True, limits=SqlLimits(max_steps=50_000)) as database:
        with pytest.raises(ToolError, match="too many steps"):
            database.query(
                "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) INSERT INTO n SELECT x FROM c"
            )
        assert database.execute_trusted("SELECT count(*) FROM n") == [(0,)]


def test_rows_and_cells_are_cut_off_and_the_model_is_told():
    limits = SqlLimits(max_rows=2, max_cell_chars=3)
    with SqlDatabase(setup=SETUP, limits=limits) as database:
        assert database.query("SELECT id, 'abcdef' AS s FROM item ORDER BY id") == (
            "id | s\n1 | abc...\n2 | abc...\n(only the first 2 rows)"
        )
        assert "first" not in database.query("SELECT id FROM item LIMIT 2")


def test_a_value_cannot_fill_the_memory(readable):
    with pytest.raises(ToolError, match="too big"):
        readable.query("SELECT zeroblob(100000000)")
    with pytest.raises(ToolError, match="too big"):
        readable.query("SELECT replace(hex(zeroblob(400000)), '0', 'abcdefgh')")


def test_state_goes_through_bytes(writable):
    saved = writable.save()
    writable.query("DELETE FROM item")
    with SqlDatabase(writable=True) as twin:
        twin.load(saved)
        assert twin.query("SELECT count(*) AS n FROM item") == "n\n3"
        with pytest.raises(ToolError):
            twin.query("DROP TABLE item")
    assert writable.query("SELECT count(*) AS n FROM item") == "n\n0"


def test_a_file_is_opened_read_only_and_stays_unchanged(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as db:
        db.executescript(SETUP)
    db.close()
    before = path.read_bytes()
    with SqlDatabase(path) as database:
        assert database.query("SELECT name FROM item WHERE id = 1") == "name\ntea"
        with pytest.raises(ToolError):
            database.query("DELETE FROM item")
    assert path.read_bytes() == before


def test_a_missing_file_is_not_created(tmp_path):
    with pytest.raises(sqlite3.OperationalError):
        SqlDatabase(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_as_a_tool(readable):
    made = sql_tool(readable)
    assert made.schema["function"]["parameters"]["required"] == ["query"]
    assert made.function(**made.validate({"query": "SELECT 1 AS one"})) == "one\n1"
    with pytest.raises(ToolError, match="no such table: nope"):
        made.function(query="SELECT * FROM nope")


def test_the_word_now_is_only_refused_as_a_date(readable):
    assert readable.query("SELECT 'now' AS w, strftime('%Y', '2024-05-06') AS y") == "w | y\nnow | 2024"
    with pytest.raises(ToolError, match="clock"):
        readable.query("SELECT strftime('%Y', 'now')")


def test_a_database_that_is_dropped_is_closed(closings):
    database = SqlDatabase(setup=SETUP, writable=True)
    database.query("DELETE FROM item")
    assert closings == []
    del database
    assert closings == ["closed"]


def test_a_database_is_closed_once_and_also_after_a_broken_setup(closings):
    with SqlDatabase(setup=SETUP) as database:
        database.close()
    del database
    assert closings == ["closed"]
    with pytest.raises(sqlite3.OperationalError):
        SqlDatabase(setup="no SQL")
    assert closings == ["closed"] * 2
