"""A statement has the same result on every day and machine: no clock, no chance, nothing of the machine."""

from __future__ import annotations

import pytest

from agentrl.errors import ToolError
from agentrl.tools.sql import SqlDatabase


@pytest.mark.parametrize(
    "value",
    [
        "date('n' || 'ow')",
        "date/**/('now')",
        "datetime(lower('NOW'))",
        "julianday(trim(' now '))",
        "strftime('%s', replace('nxw', 'x', 'o'))",
        "strftime('%Y')",
        "date(CAST('now' AS BLOB))",
        "date('now' || char(0) || 'x')",
        "date((SELECT 'now'))",
        "unixepoch(substr('know', 2))",
        "time()",
        "\"date\"('now')",
        "date(x) FROM (SELECT 'now' AS x",
        "time('12:00', 'localtime')",
        "datetime('2026-01-31', 'u' || 'tc')",
        "CURRENT_TIMESTAMP",
        "current_date",
        "random()",
        "hex(randomblob(4))",
        "sqlite_version()",
        "sqlite_source_id()",
        "total_changes()",
    ],
)
def test_nothing_depends_on_the_clock_chance_or_the_machine(readable, value):
    statement = f"SELECT {value})" if " FROM " in value else f"SELECT {value}"
    with pytest.raises(ToolError, match=r"the clock is not available|not allowed here"):
        readable.query(statement)
    assert readable.run("SELECT 1").rows == ((1,),)


def test_dates_that_are_written_out_are_computed(readable):
    for expression, value in (
        ("date('2026-01-31', '+1 month', '-1 day')", "2026-03-02"),
        ("strftime('%Y', 0, 'unixepoch')", "1970"),
        ("unixepoch('1970-01-01')", 0),
        ("julianday('2000-01-01')", 2451544.5),
        ("date(NULL)", None),
        ("datetime('not a date')", None),
    ):
        assert readable.run(f"SELECT {expression}").rows == ((value,),)


def test_the_environment_itself_may_read_the_clock_and_its_database_may_show_one():
    setup = "CREATE TABLE note (text, at DEFAULT CURRENT_TIMESTAMP, day DEFAULT (date('now')))"
    with SqlDatabase(setup=setup, writable=True) as database:
        database.execute_trusted("INSERT INTO note (text) VALUES ('a')")
        assert database.execute_trusted("SELECT at > '2025', date('now') >= day FROM note") == [(1, 1)]
        with pytest.raises(ToolError, match="the clock is not available"):
            database.query("INSERT INTO note (text) VALUES ('b')")
    with SqlDatabase(setup=setup, writable=True, now="2026-01-31 12:00") as database:
        database.query("INSERT INTO note (text) VALUES ('b')")
        assert database.run("SELECT * FROM note").rows == (("b", "2026-01-31 12:00:00", "2026-01-31"),)
        same = "SELECT date('now', '+1 day'), date(), CURRENT_DATE, strftime('%H:%M', 'NOW'), strftime('%d')"
        assert database.run(same).rows == (("2026-02-01", "2026-01-31", "2026-01-31", "12:00", "31"),)
        assert database.execute_trusted("SELECT date('now')") == [("2026-01-31",)]
    with pytest.raises(ValueError, match="now must be a time"):
        SqlDatabase(now="noon")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO item (id) VALUES (9223372036854775807)",
        "INSERT INTO item (id) VALUES (9223372036854775807), (NULL)",
        "UPDATE item SET id = 9223372036854775807 WHERE id = 1",
    ],
)
def test_no_row_gets_a_random_number(writable, statement):
    """After the last possible row number, SQLite draws the next one at random."""
    with pytest.raises(ToolError, match="at random"):
        writable.query(statement)
    assert writable.run("SELECT id FROM item").rows == ((1,), (2,), (3,))


def test_the_word_now_is_only_refused_as_a_date(readable):
    assert readable.query("SELECT 'now' AS w, strftime('%Y', '2024-05-06') AS y") == "w | y\nnow | 2024"
    with pytest.raises(ToolError, match="clock"):
        readable.query("SELECT strftime('%Y', 'now')")
