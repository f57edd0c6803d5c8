"""Tasks from a file: formats, ids, splits, fingerprints, and mistakes with their lines."""

from __future__ import annotations

import json

import pytest

from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.errors import TaskError
from agentrl.trajectory import Task

ROWS = [{"id": f"t{i}", "split": "train" if i % 3 else "eval", "q": f"question {i}"} for i in range(9)]


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_format_gives_the_same_tasks(tmp_path):
    table = [list(ROWS[0]), *[list(row.values()) for row in ROWS]]
    files = [
        written(tmp_path, "a.jsonl", "\ufeff" + lines(ROWS) + "\n\n"),
        written(tmp_path, "a.json", json.dumps(ROWS, indent=1)),
        written(tmp_path, "a.csv", "\r\n".join(map(",".join, table))),
        written(tmp_path, "a.tsv", "\n".join(map("\t".join, table))),
    ]
    for path in files:
        tasks = Tasks.from_file(path)
        assert {name: [t.id for t in tasks.split(name)] for name in tasks.splits} == {
            "eval": ["t0", "t3", "t6"],
            "train": ["t1", "t2", "t4", "t5", "t7", "t8"],
        }
        assert tasks["t4"] == Task("t4", "train", {"q": "question 4"})
        assert tasks["t4"].fingerprint == Task("other", data={"q": "question 4"}).fingerprint


def test_without_ids_and_splits_both_are_stable_when_the_file_changes(tmp_path):
    rows = [{"q": i} for i in range(200)]
    before = Tasks.from_file(written(tmp_path, "a.jsonl", lines(rows)))
    after = Tasks.from_file(written(tmp_path, "b.jsonl", lines([{"q": "new"}, *reversed(rows)])))
    assert 20 < len(before.split("eval")) < 60
    for name in ("train", "eval"):
        assert {t.id for t in before.split(name)} <= {t.id for t in after.split(name)}
    assert len(Tasks.from_file(tmp_path / "a.jsonl", eval_share=0).split("train")) == 200


def test_other_names_of_the_fields_and_numbers_as_ids(tmp_path):
    path = written(tmp_path, "a.jsonl", lines([{"n": 7, "part": "dev", "id": "data"}, {"n": 8, "part": "dev"}]))
    tasks = Tasks.from_file(path, id="n", split="part")
    assert [(t.id, t.split, t.data) for t in tasks.split("dev")] == [("7", "dev", {"id": "data"}), ("8", "dev", {})]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: not JSON: Expecting value at column 7"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: a task is a JSON object, got list"),
        ("a.jsonl", '{"a": NaN}\n', "line 1: not JSON: NaN is no JSON number"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', "line 1: not JSON: the name 'a' is there twice"),
        ("a.jsonl", '\n{"id": "x", "a": 1}\n{"id": "x", "a": 2}\n', "line 3: the id 'x' is in line 2 as well"),
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 1}\n', "line 3: the task is in line 1 as well"),
        ("a.jsonl", '{"id": "x", "a": 1}\n{"a": 2}\n', "line 2: the field 'id' is missing, though other tasks have it"),
        ("a.jsonl", '{"split": "train", "a": 1}\n{"split": null, "a": 2}\n', "line 2: the field 'split' is None"),
        ("a.jsonl", '{"a": 1}\n', "none of the 1 tasks .* falls into the split 'eval'"),
        ("a.jsonl", "\n\n", "holds no task"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.json", '{"a": 1}', "a list of tasks was expected, got dict"),
        ("a.json", '[{"a": 1},\n 5]', "task 2: a task is a JSON object, got int"),
        ("a.json", '[{"a": 1},\n x]', "line 2: not JSON"),
        ("a.csv", "q,a\n1,2\n3\n", "line 3: 1 cells in 2 columns"),
        ("a.csv", "q,q\n1,2\n", "line 1: the columns need names that differ"),
        ("a.csv", 'q,a\n1,"2\n', "line 2: unexpected end of data"),
        ("a.txt", "a", "must end in .jsonl, .json, .csv or .tsv"),
    ],
)
def test_mistakes_name_their_line(tmp_path, name, text, words):
    tasks = Tasks.from_file(written(tmp_path, name, text))
    with pytest.raises(TaskError, match=words):
        tasks.split("train")


def test_a_file_that_is_not_utf8_or_not_there(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"q\nfine\n\xe9t\xe9\n")
    with pytest.raises(TaskError, match="line 3: not UTF-8"):
        Tasks.from_file(tmp_path / "a.csv").split("train")
    with pytest.raises(TaskError, match=r"there is no file .*nowhere\.jsonl"):
        Tasks.from_file("nowhere.jsonl")
    with pytest.raises(TaskError, match="eval_share must be"):
        Tasks.from_file(written(tmp_path, "b.jsonl", "{}"), eval_share=1.5)


def test_a_cell_may_hold_line_breaks_and_commas(tmp_path):
    path = written(tmp_path, "a.csv", 'id,split,q\n1,train,"two\nlines, ""so"" to say"\n2,train,007\n')
    first, second = Tasks.from_file(path).split("train")
    assert (first.data["q"], second.data["q"]) == ('two\nlines, "so" to say', "007")


def test_the_file_stands_next_to_the_environment(tmp_path, monkeypatch):
    written(tmp_path, "mine.jsonl", lines(ROWS))
    written(
        tmp_path,
        "own.py",
        "from agentrl import Tasks, ToolEnv\nclass Own(ToolEnv):\n    tasks = Tasks.from_file('mine.jsonl')\n"
        "    def start(self, task):\n        return task.data['q']\n",
    )
    env = make(f"{tmp_path / 'own.py'}:Own")
    assert env.reset(options={"task": "t5"})[0][0].content == "question 5"
    monkeypatch.chdir(tmp_path)
    assert len(Tasks.from_file("mine.jsonl").split("eval")) == 3
