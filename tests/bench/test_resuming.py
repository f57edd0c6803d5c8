"""A benchmark whose folder holds episodes goes on with them, or is refused because something differs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.bench.runner import run_bench
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.trajectory import EnvRef
from tests.bench.toys import Adder, Some, recorded


def test_a_finished_benchmark_is_not_played_again(tmp_path: Path) -> None:
    first = run_bench(Adder, Some(), out=tmp_path)
    again = Some()
    second = run_bench(Adder, again, out=tmp_path)
    assert again.asked == []
    assert replace(second.score, effort=first.score.effort) == first.score
    assert second.score.effort.turns == 2.0
    assert len(recorded(tmp_path)) == 24  # eight tasks, three policies


def test_more_trials_go_on_where_the_folder_ends(tmp_path: Path) -> None:
    run_bench(Adder, Some(), out=tmp_path, references=False)
    policy = Some()
    result = run_bench(Adder, policy, out=tmp_path, trials=3, references=False)
    assert len(policy.asked) == 16
    assert result.score.n_episodes == 24
    fresh = run_bench(Adder, Some(), trials=3, references=False)
    assert [(t.group_id, t.seed) for t in result.trajectories] == [(t.group_id, t.seed) for t in fresh.trajectories]


def test_only_void_episodes_are_played_again(tmp_path: Path) -> None:
    run_bench(Adder, Some(broken=[5, 6]), out=tmp_path, references=False)
    policy = Some()
    result = run_bench(Adder, policy, out=tmp_path, references=False)
    assert sorted(policy.asked) == ["5+50", "6+60"]
    assert (result.score.n_episodes, result.score.n_faults) == (8, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"split": "train"}, "split 'eval', not 'train'"),
        ({"sampling": SamplingParams(temperature=0.0)}, "sampling None, not"),
    ],
)
def test_a_folder_of_another_benchmark_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    run_bench(Adder, Some(), out=tmp_path, references=False)
    with pytest.raises(ConfigError, match=f"{words}.*choose another folder"):
        run_bench(Adder, Some(), out=tmp_path, references=False, **change)
    with pytest.raises(ConfigError, match="policy 'some', not 'null'"):
        run_bench(Adder, "null", out=tmp_path)


def written(path: Path, text: str) -> str:
    """An environment's file, as a user's editor leaves it; returns its reference."""
    path.write_text(text)
    # A file is imported once in a process; two calls of a command would import it twice.
    for name in [name for name in sys.modules if name.startswith("agentrl_file_")]:
        del sys.modules[name]
    return f"{path}:Drift"


DRIFT = """
from agentrl import Tasks, ToolEnv

class Drift(ToolEnv):
    tasks = Tasks.of(train=[{"q": "x"}], eval=[{"q": f"version 1 question {i}"} for i in range(4)])

    def __init__(self, hint: str = "", **more):
        super().__init__(**more)
        self.hint = hint

    def start(self, task):
        return task.data["q"] + self.hint

    def score(self, answer):
        return float(answer == self.task.data["q"])

    def oracle(self, messages):
        return self.task.data["q"]
"""


def test_an_edited_environment_is_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "drift.py", tmp_path / "run"
    assert run_bench(written(file, DRIFT), "oracle", out=out).score.success.mean == 1.0
    before = (out / "summary.json").read_bytes(), (out / "trajectories.jsonl").read_bytes()
    edit = DRIFT.replace('return self.task.data["q"]', 'return "wrong"')
    with pytest.raises(
        ConfigError, match=r"env.version 'sha256:\w+', not .*the environment was edited.*another folder"
    ):
        run_bench(written(file, edit), "oracle", out=out)
    assert before == ((out / "summary.json").read_bytes(), (out / "trajectories.jsonl").read_bytes())
    assert run_bench(written(file, edit), "oracle", out=tmp_path / "new").score.success.mean == 0.0


class Edited(Adder):
    """Other content in the last task, as if a generator's seed or a file of tasks had changed."""

    tasks = Tasks.of(eval=[*({"a": n, "b": 10 * n} for n in range(7)), {"a": 7, "b": 7}])


def test_edited_tasks_are_refused_and_more_of_the_same_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_bench(Adder, "oracle", out=tmp_path, num_tasks=3)
    run_bench(Adder, "oracle", out=tmp_path)
    run_bench(Adder, "oracle", out=tmp_path, num_tasks=2)  # fewer do not make it forget the others
    monkeypatch.setattr(Adder, "tasks", Edited.tasks)
    with pytest.raises(ConfigError, match=r"other content of task 'eval-7' \(the tasks were edited\)"):
        run_bench(Adder, "oracle", out=tmp_path)
    few = Tasks.of(eval=[{"a": n, "b": 10 * n} for n in range(7)] + [{"a": 9, "b": 90}] * 2)
    renamed = [replace(task, id=f"new-{task.id}") for task in few.split("eval")]
    monkeypatch.setattr(Adder, "tasks", Tasks(lambda: {"eval": renamed}))
    with pytest.raises(
        ConfigError, match=r"tasks 'eval-0', .* and 5 others, not tasks 'new-eval-0', .*split was edited"
    ):
        run_bench(Adder, "oracle", out=tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (EnvRef("{}"), EnvRef("{}", {"hint": "!"}), r"env.kwargs {}, not {'hint': '!'}"),
        (EnvRef("{}", {"hint": "?"}), EnvRef("{}", {"hint": "!"}), r"env.kwargs {'hint': '\?'}, not {'hint': '!'}"),
        (EnvRef("{}"), EnvRef("{}", limits={"max_turns": 3}), r"env.limits {}, not {'max_turns': 3}"),
    ],
)
def test_other_arguments_and_limits_are_refused(tmp_path: Path, first: EnvRef, second: EnvRef, words: str) -> None:
    reference = written(tmp_path / "drift.py", DRIFT)
    run_bench(replace(first, id=reference), "oracle", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        run_bench(replace(second, id=reference), "oracle", out=tmp_path / "run")


def test_what_a_function_makes_is_known_by_its_arguments_and_limits(tmp_path: Path) -> None:
    class Sized(Adder):
        def __init__(self, size: int = 1) -> None:
            super().__init__()
            self.size = size

    def short() -> Sized:
        made = Sized()
        made.limits = Limits(max_turns=3)
        return made

    run_bench(lambda: Sized(2), "null", out=tmp_path / "a")
    assert {t.env.kwargs["size"] for t in recorded(tmp_path / "a")} == {2}
    with pytest.raises(ConfigError, match=r"env.kwargs {'size': 2}, not {'size': 3}"):
        run_bench(lambda: Sized(3), "null", out=tmp_path / "a")
    short.__name__ = "Sized"
    run_bench(Sized, "null", out=tmp_path / "b")
    with pytest.raises(ConfigError, match=r"limits\.max_turns 4, not 3"):
        run_bench(short, "null", out=tmp_path / "b")


def test_another_version_of_agentrl_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_bench(Adder, "null", out=tmp_path)
    monkeypatch.setattr("agentrl.bench.identity.package_version", lambda name: "99.0")
    with pytest.raises(ConfigError, match=r"agentrl '.*', not '99\.0'"):
        run_bench(Adder, "null", out=tmp_path)


def test_the_sampling_that_a_policy_has_of_itself_counts(tmp_path: Path) -> None:
    policy = Some()
    policy.sampling = SamplingParams(temperature=0.3)  # type: ignore[attr-defined]
    result = run_bench(Adder, policy, out=tmp_path, references=False)
    assert result.sampling == {"temperature": 0.3, "top_p": 1.0, "top_k": 0, "max_tokens": 256, "stop": []}
    assert result.to_json()["config"]["sampling"] is None
    policy.sampling = SamplingParams(temperature=0.4)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"sampling {'temperature': 0.3.*not {'temperature': 0.4"):
        run_bench(Adder, policy, out=tmp_path, references=False)


def test_a_recorded_episode_of_another_content_is_not_counted_as_played(tmp_path: Path) -> None:
    run_bench(Adder, Some(), out=tmp_path, references=False)
    lines = [json.loads(line) for line in (tmp_path / "trajectories.jsonl").read_text().splitlines()]
    for line in lines:
        a = line["task"]["data"]["a"]
        line["task"]["data"] |= {"b": -1} if a == 1 else {}
        line["env"] |= {"kwargs": {"n": 1}} if a == 2 else {"version": "sha256:0"} if a == 3 else {}
        line["seed"] += a == 4
    (tmp_path / "trajectories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    policy = Some()
    result = run_bench(Adder, policy, out=tmp_path, references=False)
    assert sorted(policy.asked) == ["1+10", "2+20", "3+30", "4+40"]
    assert result.score.n_episodes == 8
