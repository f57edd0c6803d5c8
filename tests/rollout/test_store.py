"""The store survives crashes, full disks and whatever a model writes."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import StoreError
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.json_lines import canonical, decode_line, encode_line
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn
from tests.endings import ENDINGS


def trajectory(number: int, *, status="terminated", stage="train", arguments=None) -> Trajectory:
    action = Action(
        f"answer {number} €",
        (ToolCall("f", arguments or {"x": number}, "c"),),
        prompt_ids=(1, 2, number),
        token_ids=(7, 8),
        logprobs=(-0.1, -1.0 / 3.0),
    )
    more = Action("more", prompt_ids=(1, 2, number, 7, 8, 9), token_ids=(10,), logprobs=(-2.5e-17,))
    turns = [
        Turn((Message("user", "go"),), action, 0.1, {"a": 0.1}, (Message("tool", "ok", (), "c", "f"),), "k0"),
        Turn((Message("tool", "ok", (), "c", "f"),), more, 0.2, {}, (Message("user", "bye"),)),
    ]
    task = Task(f"t{number}", "train", {"n": number})
    info = {"nested": {"list": [1, None, "x"]}}
    return Trajectory(
        EnvRef("test/E-v0"),
        task,
        number,
        turns,
        ENDINGS[status],
        f"g{number // 2}",
        f"e{number}",
        Labels(stage),
        info,
        [{"type": "function"}],
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "trajectories.jsonl"


def filled(path, count: int) -> TrajectoryStore:
    store = TrajectoryStore(path)
    for number in range(count):
        store.append(trajectory(number))
    store.close()
    return store


def test_what_goes_in_comes_out(path):
    filled(path, 5)
    assert list(TrajectoryStore(path)) == [trajectory(n) for n in range(5)]
    assert path.read_bytes().count(b"\n") == 5


def test_a_line_is_readable_as_soon_as_append_returns_and_appends_go_on_after_close(path):
    with TrajectoryStore(path) as store:
        for number in range(3):
            store.append(trajectory(number))
            assert len(list(TrajectoryStore(path))) == number + 1
    store.append(trajectory(3))
    store.close()
    assert [t.seed for t in store] == [0, 1, 2, 3]


def test_filters(path):
    store = TrajectoryStore(path)
    kinds = [("terminated", "train"), ("fault", "train"), ("truncated", "eval"), ("terminated", "eval")]
    for number, (status, stage) in enumerate(kinds):
        store.append(trajectory(number, status=status, stage=stage))
    assert [t.seed for t in store.read(stage="eval")] == [2, 3]
    assert [t.seed for t in store.read(status="terminated")] == [0, 3]
    assert [t.seed for t in store.read(group_id="g0", status="fault")] == [1]
    assert [number for number, _ in store.records()] == [1, 2, 3, 4]


def test_reading_is_lazy(path):
    filled(path, 3)
    with path.open("ab") as file:
        file.write(b"{broken}\n")
    reader = iter(TrajectoryStore(path))
    assert [next(reader).seed for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StoreError, match="line 4: is not a JSON object"):
        next(reader)


def test_every_torn_end_is_tolerated_and_cut_off_by_the_next_append(path):
    filled(path, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (*range(first, len(whole), 13), len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        only_the_newline_is_missing = cut == len(whole) - 1
        seen = [0, 1] if only_the_newline_is_missing else [0]
        assert [t.seed for t in TrajectoryStore(path)] == seen, cut
        with TrajectoryStore(path) as store:
            assert store.position == first
            store.append(trajectory(9))
        assert [t.seed for t in TrajectoryStore(path)] == [*seen, 9], cut


def test_a_torn_end_longer_than_a_block(path):
    filled(path, 1)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"env_id": "' + b"x" * 200_000)
    store = TrajectoryStore(path)
    assert store.position == size
    store.append(trajectory(1))
    assert [t.seed for t in store] == [0, 1]


def test_a_store_of_one_torn_line_starts_afresh(path):
    path.parent.mkdir()
    path.write_bytes(b'{"env_id"')
    store = TrajectoryStore(path)
    assert list(store) == []
    store.append(trajectory(4))
    assert [t.seed for t in store] == [4]


@pytest.mark.parametrize("bad", [b"{", b"\x00\x00\x00", b"[1, 2]", b"", b"\xff\xfe"])
def test_a_broken_line_in_the_middle_is_named(path, bad):
    filled(path, 3)
    lines = path.read_bytes().split(b"\n")
    lines[1] = bad
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        StoreError, match=r"trajectories\.jsonl, line 2: is not a JSON object. Delete that line in a copy"
    ):
        list(TrajectoryStore(path))


def test_json_that_is_no_trajectory_is_named(path):
    filled(path, 1)
    with path.open("ab") as file:
        file.write(b'{"format": 2, "turns": []}\n')
    with pytest.raises(StoreError, match="line 2: is no trajectory: KeyError"):
        list(TrajectoryStore(path))


def test_a_store_of_another_format_is_refused_by_its_number(path):
    path.parent.mkdir()
    path.write_text('{"env_id": "agentrl/Shop-v0", "status": "terminated", "turns": []}\n')
    with pytest.raises(StoreError, match=r"trajectories\.jsonl, line 1: was written in format 1, and this version"):
        list(TrajectoryStore(path))


def test_a_missing_store_is_named(path):
    with pytest.raises(StoreError, match="there is no store at"):
        list(TrajectoryStore(path))
    assert TrajectoryStore(path).position == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("written", [0, 1, 100])
def test_a_full_disk_loses_nothing_and_writing_goes_on_when_there_is_space(path, monkeypatch, error, written):
    store = filled(path, 2)
    before, real = path.read_bytes(), os.write

    def full(file, line, budget=[written]):  # noqa: B006
        if budget[0] == 0:
            raise OSError(error, os.strerror(error))
        size, budget[0] = budget[0], 0
        return real(file, bytes(line)[:size])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"the disk is full: .*What was written before is whole; free space"):
        store.append(trajectory(2))
    assert path.read_bytes() == before
    monkeypatch.undo()
    store.append(trajectory(3))
    assert [t.seed for t in store] == [0, 1, 3]


def test_a_real_limit_on_the_file_size_is_reported_the_same_way(path):
    program = """
import resource, signal, sys
from agentrl.errors import StoreError
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Task, Trajectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
store = TrajectoryStore(sys.argv[1])
for count in range(10**6):
    try:
        store.append(Trajectory(EnvRef("e"), Task("t"), count))
    except StoreError as error:
        print(count, error)
        break
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    count, message = done.stdout.split(" ", 1)
    assert message.startswith("the disk is full: cannot write")
    assert int(count) > 3
    assert [t.seed for t in TrajectoryStore(path)] == list(range(int(count)))
    assert path.read_bytes().endswith(b"\n")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give a folder you may write to"):
        TrajectoryStore(tmp_path / "file" / "trajectories.jsonl").append(trajectory(0))


def test_rewind_goes_back_to_a_checkpoint(path):
    store = filled(path, 2)
    mark = TrajectoryStore(path).position
    assert mark == store.position == path.stat().st_size
    for number in (2, 3):
        store.append(trajectory(number))
    store.close()
    resumed = TrajectoryStore(path)
    resumed.rewind(mark)
    resumed.append(trajectory(9))
    resumed.sync()
    assert [t.seed for t in resumed] == [0, 1, 9]
    with pytest.raises(StoreError, match="checkpoint was made at byte 999999"):
        resumed.rewind(999_999)


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@dataclass
class Room:
    name: str
    size: Decimal


def test_info_that_is_not_json_never_ends_a_run_and_is_stored_in_words_that_repeat(path):
    within: dict = {"a": 1}
    within["within"] = within
    info = {
        "success": np.bool_(True),
        "score": np.float32(0.5),
        "counts": np.arange(3),
        "raw": b"caf\xe9",
        "tags": {"b", "a"},
        "room": Room("hall", Decimal("1.50")),
        "when": datetime(2026, 11, 26, tzinfo=UTC),
        "where": Path("/tmp/x"),
        "client": object(),
        "within": within,
        "deep": deep(5000),
        (1, 2): None,
        3: "three",
        "half": "\ud800",
    }
    store = filled(path, 1)
    odd = replace(trajectory(1), info=info)
    store.append(odd)
    first, back = list(store)
    assert first == trajectory(0)
    assert {key: value for key, value in back.info.items() if key != "deep"} == {
        "success": True,
        "score": 0.5,
        "counts": [0, 1, 2],
        "raw": "caf\\xe9",
        "tags": ["a", "b"],
        "room": {"name": "hall", "size": "1.50"},
        "when": "2026-11-26T00:00:00+00:00",
        "where": "/tmp/x",
        "client": "<builtins.object>",
        "within": {"a": 1, "within": "<dict within itself>"},
        "[1, 2]": None,
        "3": "three",
        "half": "\ud800",
    }
    assert "<nested beyond 100 levels>" in str(back.info["deep"])
    assert back.success


class Odd:
    """An object of an author's that raises at everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("no text")


class OddError(Odd, ValueError):
    pass


def test_info_of_any_size_is_written_in_bounded_time_and_space(path):
    often: Any = "x"
    for _ in range(64):
        often = {"a": often, "b": often}
    info = {
        "n": -(10**5000),
        "r": range(10**12),
        "often": often,
        "odd": Odd(),
        "e": OddError(),
        "f": Fraction("1e5000"),
    }
    store = filled(path, 0)
    for name, value in info.items():
        store.append(replace(trajectory(0), info={name: value, "success": True}))
    found = {name: back.info[name] for name, back in zip(info, store, strict=True)}
    assert found["n"] == hex(-(10**5000))
    assert len(found["r"]) == 10**6 - 1
    assert found["r"][-1] == "<more than 1000000 values or 64000000 characters>"
    assert len(str(found["often"])) < 10**8
    assert found["odd"] == f"<{__name__}.Odd>"
    assert found["e"] == f"<{__name__}.OddError>"
    assert found["f"] == "<fractions.Fraction>"


def test_numbers_that_are_not_finite_come_back_where_replaying_needs_them(path):
    odd = {"nan": math.nan, "list": [math.inf, {"x": -math.inf}], "none": None}
    store = TrajectoryStore(path)
    store.append(trajectory(0, arguments=odd))
    store.append(replace(trajectory(1), task=Task("t", data={"low": -math.inf}), info={"loss": math.nan, "no": None}))
    store.append(replace(trajectory(2), env=EnvRef("test/E-v0", {}, {"max_wall_s": math.inf})))
    faulted = trajectory(3, status="fault")
    faulted.turns[-1].reward = math.nan
    store.append(faulted)
    first, second, third, fourth = store
    assert repr(first.turns[0].action.tool_calls[0].arguments) == repr(odd)
    assert second.task.data == {"low": -math.inf}
    assert repr(second.info) == "{'loss': nan, 'no': None}"
    assert third.env.limits == {"max_wall_s": math.inf}
    assert math.isnan(fourth.reward)


@pytest.mark.parametrize("odd", ["\ud800", deep(5000), {(1, 2): 3}, object(), b"\xff", {3, 4}, np.float32("nan")])
def test_a_line_and_a_summary_are_valid_json_whatever_is_in_them(tmp_path, odd):
    def constants(text):
        raise AssertionError(f"{text} is not JSON")

    value = {"odd": odd, "nan": math.nan, "inf": [math.inf]}
    write_summary(tmp_path / "summary.json", value)
    for line in (encode_line(value), (tmp_path / "summary.json").read_bytes()):
        read = json.loads(line, parse_constant=constants)
        assert (read["nan"], read["inf"]) == (None, [None])


@pytest.mark.parametrize(
    "value", [2**64, -(2**200), "\ud800 lone", deep(400), {"a": {"b\udfff": [2**70, 0.1]}}, 2**63, -0.0, 1e308]
)
def test_what_models_write_comes_back_exactly(path, value):
    store = TrajectoryStore(path)
    store.append(trajectory(0))
    store.append(trajectory(1, arguments={"x": value}))
    store.append(trajectory(2))
    back = list(store)
    assert [t.seed for t in back] == [0, 1, 2]
    assert back[1].turns[0].action.tool_calls[0].arguments == {"x": value}
    assert repr(back[1].turns[0].action.tool_calls[0].arguments["x"]) == repr(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_lines_round_trip_like_the_standard_library(value):
    line = encode_line(value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == value
    assert canonical(decode_line(line)) == canonical(value)


class Name(str):
    """Text of a type of its own."""


def test_numbers_keys_and_texts_of_other_types_are_written_as_json_has_them():
    value = {
        "mean": np.float64(0.5),
        "seen": np.arange(3),
        "right": np.bool_(True),
        "who": Name("a"),
        "view": MappingProxyType({"x": 1}),
        3: "three",
        np.int64(2): "two",
        None: "none",
        True: "true",
    }
    read = {"mean": 0.5, "seen": [0, 1, 2], "right": True, "who": "a", "view": {"x": 1}}
    assert decode_line(encode_line(value)) == {**read, "3": "three", "2": "two", "null": "none", "true": "true"}


def test_canonical_tells_numbers_that_are_not_finite_apart():
    assert canonical({"x": math.nan}) == canonical({"x": math.nan})
    forms = [canonical({"x": value}) for value in (math.nan, math.inf, -math.inf, None, "NaN")]
    assert len(set(forms)) == 5
    assert canonical({"x": np.float32(0.5), "s": "\ud800"}) == canonical({"x": 0.5, "s": "\ud800"})


def test_canonical_ignores_the_order_of_keys_and_nothing_else():
    assert canonical({"a": 1, "b": (2,)}) == canonical({"b": [2], "a": 1})
    assert canonical({"a": 1}) != canonical({"a": 1.0})
    assert canonical({"a": "1"}) != canonical({"a": 1})
    assert canonical([2**64, 1]) != canonical([2**64 + 1, 1])


def test_summary_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "run" / "summary.json"
    write_summary(path, {"score": 0.5, "name": "é"})
    assert json.loads(path.read_text()) == {"score": 0.5, "name": "é"}

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        write_summary(path, {"score": 0.9})
    assert json.loads(path.read_text())["score"] == 0.5
    assert os.listdir(path.parent) == ["summary.json"]
