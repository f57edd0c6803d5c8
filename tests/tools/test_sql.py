from __future__ import annotations

import json
import re
import sqlite3

import pytest

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.sql import SqlDatabase, SqlLimits, sql_tool
from tests.tools.conftest import SETUP

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


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
        "EXPLAIN SELECT 1",
        "-- a note\n/* and */ explain query plan SELECT * FROM item",
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


async def test_as_a_tool(readable):
    made = sql_tool(readable)
    assert made.schema["function"]["parameters"]["required"] == ["query"]
    assert await made.function(**made.validate({"query": "SELECT 1 AS one"})) == "one\n1"
    with pytest.raises(ToolError, match="no such table: nope"):
        await made.function(query="SELECT * FROM nope")


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


# Whatever a statement says, the model reads what is wrong with it, and the database works on.


def expressions(levels, body):
    parts = ["c0 AS (SELECT 1 AS x)", *(f"c{i} AS ({body.format(c=f'c{i - 1}')})" for i in range(1, levels))]
    return f"WITH {', '.join(parts)} SELECT count(*) FROM c{levels - 1}"


DOUBLING = expressions(40, "SELECT a.x FROM {c} a, {c} b")
LONG = "replace(hex(zeroblob(49000)), '00', 'a')"
ROWS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize(
    "statement",
    [
        *(
            "SELECT '\ud800'",
            "SELECT 1\0",
            "SELECT \udfff",
            "\x00",
            ";",
            "(",
            "SELECT",
            "'",
            '"',
            "--",
            "/*",
            "\ufeff",
            "é",
        ),
        *(
            "SELECT " + "(" * 5000 + "1" + ")" * 5000,
            "SELECT " + "NOT " * 20_000 + "1",
            "SELECT " + "1+" * 20_000 + "1",
            *(
                "WITH " + ", (" * 40 + sign * 90_000
                for sign in ("[", ":", "'", '"', "`", "(", "/*", "a ", "a as (", "\ufeff", "$")
            ),
        ),
        *("SELECT " + "date(" * 5_000, "SELECT " + "1," * 40_000 + "1", "x" * 10**6),
        *("SELECT zeroblob(1000000000)", "SELECT randomblob(1000000000)", "SELECT hex(zeroblob(90000))"),
        *(
            "SELECT printf('%.*c', 999999999, 'x')",
            "SELECT format('%2147483647d', 1)",
            f"SELECT {LONG} || {LONG} || {LONG}",
        ),
        *(
            "SELECT abs(-9223372036854775808)",
            "SELECT sum(x) FROM (SELECT 9223372036854775807 AS x UNION ALL SELECT 1)",
        ),
        f"{ROWS} SELECT group_concat(x) FROM c",
        f"{ROWS} SELECT max(x) FROM c",
        f"SELECT trim({LONG}, {LONG})",
        "SELECT printf('%.999999999c', 'x')",
        f"SELECT {LONG} LIKE '%' || replace(hex(zeroblob(24000)), '00', 'a') || 'b'",
        f"WITH c(x) AS (VALUES (1){', (1)' * 50}) SELECT {', '.join(['zeroblob(99999)'] * 99)} FROM c",
        *(f"SELECT {', '.join(['zeroblob(99999)'] * 1990)}", f"SELECT {', '.join(['1'] * 1999)} FROM item"),
        *(
            expressions(40, "SELECT x FROM " + other + " UNION ALL SELECT x FROM {c}")
            for other in ("(\ufeff{c})", "[{c}]")
        ),
        DOUBLING.replace("SELECT 1 ", "SELECT $a(') "),
        DOUBLING.replace("c", "🫖🫖"),
        re.sub(r"c(\d+) AS", r'"c""\1" AS', re.sub(r"(FROM|,) c(\d+) (?!AS)", r'\1 [c"\2] ', DOUBLING)),
        *(DOUBLING, "WITH " + "a AS (SELECT 1), " * 5_000),
        expressions(40, 'SELECT x FROM "{c}" UNION ALL SELECT x FROM [{c}]'),
        expressions(40, "SELECT (SELECT x FROM/**/{c}) + (SELECT x FROM `{c}`) AS x"),
        "ATTACH DATABASE '/tmp/stolen.db' AS x",
        "SELECT readfile('/etc/passwd')",
        "SELECT json('" + "[" * 3000 + "]" * 3000 + "')",
    ],
    ids=lambda statement: statement[:40].encode("ascii", "backslashreplace").decode(),
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_bad_statement_is_told_to_the_model_and_quickly(readable, statement, form):
    with SqlDatabase(setup=SETUP, limits=SqlLimits(timeout_s=1.0)) as database:
        try:
            text = database.query(statement, form)
        except ToolError as error:
            text = str(error)
        assert text.encode()
        assert len(text) <= 21_000
        assert database.run("SELECT 1").rows == ((1,),)


def test_a_text_that_is_not_utf8_stops_nobody_who_reads_it(writable):
    writable.query("INSERT INTO item VALUES (4, CAST(x'ff41' AS TEXT), 1), (5, char(55296), 2)")
    names = [name for (name,) in writable.execute_trusted("SELECT name FROM item WHERE id > 3")]
    assert names == ["\ufffdA", "\ufffd" * 3]
    assert "\ufffdA" in writable.query("SELECT name FROM item")


def test_infinity_and_bytes_have_a_form_in_json(readable):
    text = readable.query("SELECT 9e999 AS a, -9e999 AS b, x'00ff' AS c", "json")
    assert json.loads(text) == [{"a": "inf", "b": "-inf", "c": "<2 bytes>"}]


def test_a_result_is_bounded_in_all():
    with SqlDatabase(setup=SETUP, limits=SqlLimits(max_chars=300, max_cell_chars=50)) as database:
        wide = "SELECT printf('%40s', 'x') AS a FROM item x, item y, item z"
        assert database.query(wide) == "a\n" + ("x".rjust(40) + "\n") * 7 + "(only the first 7 rows)"
        text, _, note = database.query(wide, "json").partition(" (")
        assert json.loads(text) == [{"a": "x".rjust(40)}] * 5
        assert note == "only the first 5 rows)"
        with pytest.raises(ToolError, match="too wide"):
            database.query("SELECT " + ", ".join(f"printf('%40s', {i})" for i in range(20)))


def test_an_environment_reads_longer_values_than_the_model():
    with SqlDatabase(setup="CREATE TABLE t (a); INSERT INTO t VALUES (printf('%200000s', 'x'))") as database:
        with pytest.raises(ToolError, match="too big"):
            database.query("SELECT length(a) FROM t")
        assert database.execute_trusted("SELECT length(a) FROM t") == [(200_000,)]


def test_a_write_that_shows_too_much_changes_nothing():
    setup = f"CREATE TABLE t (a); INSERT INTO t VALUES {', '.join(['(1)'] * 50)}"
    with SqlDatabase(setup=setup, writable=True) as database:
        with pytest.raises(ToolError, match="too large"):
            database.query("UPDATE t SET a = 3 RETURNING hex(zeroblob(45000))")
        assert database.run("SELECT DISTINCT a FROM t").rows == ((1,),)


def test_the_inner_tables_of_a_search_index_are_not_the_models_to_change():
    setup = "CREATE VIRTUAL TABLE note USING fts5(text); INSERT INTO note VALUES ('tea'); CREATE TABLE note_of (x);"
    with SqlDatabase(setup=setup, writable=True) as database:
        for table in ("note_data", "NOTE_content", "note_idx", "note_docsize", "note_config"):
            with pytest.raises(ToolError, match="not allowed"):
                database.query(f"DELETE FROM {table}")
        assert database.query("INSERT INTO note VALUES ('mug')") == "1 rows changed"
        assert database.query("INSERT INTO note_of VALUES (1)") == "1 rows changed"
        assert database.execute_trusted("SELECT text FROM note WHERE note MATCH 'tea'") == [("tea",)]


def test_a_database_that_another_connection_holds_is_not_the_models_failure(tmp_path):
    path = tmp_path / "held.db"
    with SqlDatabase(path, setup=SETUP, writable=True) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        database.execute_trusted("PRAGMA busy_timeout = 1")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EnvFault, match="another connection holds") as caught:
            database.query("INSERT INTO item VALUES (9, 'cap', 1)")
        assert caught.value.at == "host"
        holder.execute("ROLLBACK")
        holder.close()
        assert database.query("INSERT INTO item VALUES (9, 'cap', 1)") == "1 rows changed"


def test_common_table_expressions_of_a_usual_kind_work(readable):
    named = ", ".join(f"c{i}(x) AS MATERIALIZED (SELECT id FROM item WHERE id > {i})" for i in range(12))
    joined = " UNION ALL ".join(f"SELECT x FROM c{i} WHERE x IN c{i}" for i in range(12))
    assert readable.run(f"WITH {named} SELECT count(*) FROM ({joined})").rows == ((6,),)
