"""What a resumed run must be made of, and what its records say it was made of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import registry
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError
from agentrl.rollout.replay import replay_store
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.settings import EnvConfig, SamplingConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.train import resume, train
from tests.training.test_preflight import CONFIG, STAGES, Ask
from tests.training.test_run_folder import content, stop_at

ITEMS = [{"n": n} for n in range(12)]


@register("test/AskAbout-v0", max_turns=3)
class AskAbout(Ask):
    """Say the price, in a currency."""

    items = ITEMS
    held_out = ITEMS[9:]

    def __init__(self, *, currency: str = "euro", render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.currency = currency
        self.tasks = Tasks.of(train=self.items[:9], eval=self.held_out)

    def start(self, task: Any) -> str:
        return f"What does it cost, in {self.currency}?"


HERE = replace(CONFIG, env=EnvConfig("test/AskAbout-v0", max_turns=2, kwargs={"currency": "pound"}))


def interrupted(run: Path, config: Any = HERE, at: tuple[str, int] = ("demonstrations", 0)) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_progress=stop_at(*at))
    return run


def test_a_run_records_what_it_is_made_of(tmp_path: Path) -> None:
    identity = json.loads((interrupted(tmp_path / "run") / "identity.json").read_text())
    (environment,) = identity["environments"]
    ref = registry.make(HERE.env.ref).ref
    assert ref is not None
    assert environment["env"] == {
        "id": "test/AskAbout-v0",
        "kwargs": {"currency": "pound"},
        "limits": {"max_turns": 2},
        "version": ref.version,
    }
    assert re.fullmatch(r"sha256:[0-9a-f]{12}", ref.version)
    assert {name: split["count"] for name, split in environment["splits"].items()} == {"train": 9, "eval": 3}
    task = registry.make("test/AskAbout-v0").tasks["train-0"]
    assert environment["splits"]["train"]["tasks"]["train-0"] == task.fingerprint
    assert identity["sampling"] == {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12}
    assert set(identity["packages"]) == {"agentrl", "torch", "transformers", "python"}
    assert all(identity["packages"].values())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", identity["began"])
    summary = resume(tmp_path / "run")
    assert identity["packages"].items() <= summary["packages"].items()
    assert {name: summary[name] for name in ("began", "sampling")} == {
        name: identity[name] for name in ("began", "sampling")
    }


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = run / "identity.json"
    identity = json.loads(path.read_text())
    change(identity)
    path.write_text(json.dumps(identity))


def packages(**versions: str) -> Callable[[dict[str, Any]], None]:
    return lambda identity: identity["packages"].update(versions)


def env(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda identity: identity["environments"][0]["env"].update(fields)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (packages(torch="1.0"), r"the version of torch was '1\.0', here it is '"),
        (packages(transformers="4.0"), r"the version of transformers was '4\.0', here"),
        (packages(agentrl="0.0.1"), r"the version of agentrl was '0\.0\.1', here"),
        (env(version="sha256:0"), r"the version of the environment test/AskAbout-v0 was 'sha256:0', here it is 'sha"),
        (env(kwargs={"currency": "yen"}), r"was test/AskAbout-v0\(currency='yen', max_turns=2\), here it is test/Ask"),
        (env(limits={}), r"was test/AskAbout-v0\(currency='pound'\), here it is .*max_turns=2"),
        (env(id="test/Other-v0"), r"the environment was test/Other-v0\("),
        (lambda identity: identity["sampling"].update(max_tokens=13), r"sampling\.max_tokens was 13, here it is 12"),
    ],
)
def test_another_identity_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    run = interrupted(tmp_path / "run")
    edit(run, change)
    before = content(run)
    with pytest.raises(ConfigError, match=rf"run cannot be resumed(?s:.*){named}(?s:.*)resume, or start a new run"):
        resume(run)
    assert content(run) == before


def test_another_python_may_resume(tmp_path: Path) -> None:
    run = interrupted(tmp_path / "run")
    edit(run, packages(python="3.0.0"))
    assert resume(run)["steps"] == 2


def test_an_edit_of_sampling_is_refused_without_a_checkpoint_too(tmp_path: Path) -> None:
    run = interrupted(tmp_path / "run")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("max_tokens = 12", "max_tokens = 11"))
    with pytest.raises(ConfigError, match=r"sampling\.max_tokens was 12, here it is 11"):
        resume(run)


@pytest.mark.parametrize(
    ("train_items", "eval_items", "named"),
    [
        ([{"n": 100}, *ITEMS[1:]], ITEMS[9:], r"'train' are others: 1 with another content \(train-0\)$"),
        (
            [{"n": 100 + n} for n in range(5)] + ITEMS[5:],
            ITEMS[9:],
            r"'train' are others: 5 with another content \(train-0, train-1, train-2, …\)$",
        ),
        (ITEMS, ITEMS[9:11], r"'eval' are others: 1 missing \(eval-2\)$"),
        (ITEMS, [*ITEMS[9:], {"n": 50}], r"'eval' are others: 1 new \(eval-3\)$"),
        (ITEMS, [ITEMS[10], ITEMS[9], ITEMS[11]], r"'eval' are others: 2 with another content \(eval-0, eval-1\)$"),
    ],
)
def test_tasks_of_another_content_are_refused_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_items: Any, eval_items: Any, named: str
) -> None:
    run = interrupted(tmp_path / "run", at=("rl", 1))
    monkeypatch.setattr(AskAbout, "items", train_items)
    monkeypatch.setattr(AskAbout, "held_out", eval_items)
    with pytest.raises(ConfigError, match=rf"(?m)the tasks of test/AskAbout-v0 in the split {named}"):
        resume(run)
    monkeypatch.undo()
    assert resume(run)["steps"] == 2


def test_tasks_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(tmp_path / "run")
    known = AskAbout().tasks.split("train")
    monkeypatch.setattr(Tasks, "split", lambda self, name: known[::-1] if name == "train" else real(self, name))
    with pytest.raises(ConfigError, match="in the split 'train' are others: they are in another order"):
        resume(run)


real = Tasks.split


FILE = '''
from agentrl import Tasks, ToolEnv


class Echo(ToolEnv):
    """Say go."""

    tasks = Tasks.of(train=[{"n": n} for n in range(6)], eval=[{"n": n} for n in range(6, 9)])

    def start(self, task):
        return "Say go."

    def score(self, answer):
        return float(answer == "go")

    def oracle(self, messages):
        return "go"
'''


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "echo.py"
    path.write_text(FILE)
    yield path
    for name in [name for name in sys.modules if name.startswith("agentrl_file_echo_")]:
        del sys.modules[name]


def loaded_anew() -> None:
    """As a new process sees it."""
    for name in [name for name in sys.modules if name.startswith("agentrl_file_echo_")]:
        del sys.modules[name]


@pytest.mark.parametrize("anew", [True, False], ids=["new process", "same process"])
def test_an_edited_environment_is_refused_and_its_own_file_is_not(tmp_path: Path, own_file: Path, anew: bool) -> None:
    config = replace(CONFIG, env=EnvConfig(f"{own_file}:Echo"))
    run = interrupted(tmp_path / "run", config, ("rl", 1))
    own_file.write_text(FILE.replace('answer == "go"', 'answer == "stop"'))
    if anew:
        loaded_anew()
    with pytest.raises(ConfigError, match=r"the version of the environment .*echo\.py:Echo was 'sha256:"):
        resume(run)
    own_file.write_text(FILE)
    if anew:
        loaded_anew()
    assert resume(run)["steps"] == 2


def test_a_mixture_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = replace(STAGES["rl"], playing=Playing(2, 2, mixture={"own": 1.0, "test/AskAbout-v0": 1.0}))
    config = replace(CONFIG, stages={**STAGES, "rl": mixed})
    run = interrupted(tmp_path / "run", config)
    identity = json.loads((run / "identity.json").read_text())
    assert [e["env"]["id"] for e in identity["environments"]] == ["test/Ask-v0", "test/AskAbout-v0"]
    assert list(identity["environments"][1]["splits"]) == ["train"]
    monkeypatch.setattr(AskAbout, "items", [{"n": 100}, *ITEMS[1:]])
    with pytest.raises(ConfigError, match=r"test/AskAbout-v0 in the split 'train'.*\(train-0\)"):
        resume(run)


# The records.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    stages = {
        **STAGES,
        "before": Evaluate(num_tasks=3),
        "rl": replace(STAGES["rl"], playing=Playing(2, 2, mixture={"own": 1.0, "agentrl/Shop-v0": 1.0}), steps=3),
    }
    train(replace(HERE, stages=stages, run=replace(HERE.run, evaluate_every=1, evaluate_tasks=2)), run)
    return run


def test_every_record_says_which_environment_it_was(whole: Path) -> None:
    seen: dict[str, set[str]] = {}
    for trajectory in TrajectoryStore(whole / "trajectories.jsonl"):
        seen.setdefault(trajectory.env.id, set()).add(trajectory.labels.stage)
        assert trajectory.env == registry.make(replace(trajectory.env, version="")).ref
        if trajectory.env.id == "test/AskAbout-v0":
            assert (trajectory.env.kwargs, trajectory.env.limits) == ({"currency": "pound"}, {"max_turns": 2})
            assert len(trajectory.turns) <= 2
    assert seen == {"test/AskAbout-v0": {"before", "rl", "eval", "after"}, "agentrl/Shop-v0": {"rl"}}


def test_every_episode_of_a_run_replays(whole: Path) -> None:
    found = replay_store(whole / "trajectories.jsonl")
    assert found.ok
    assert set(found.counts) == {"same"}
    assert found.counts["same"] > 20
    assert not found.versions
    assert not found.tasks


@pytest.mark.parametrize("kwargs", [{"cheapest_first": False}, {}])
def test_a_run_on_a_bundled_environment_with_arguments_and_limits_replays(
    tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    config = replace(
        CONFIG,
        env=EnvConfig("agentrl/Shop-v0", max_turns=2, kwargs=kwargs),
        sampling=SamplingConfig(max_tokens=24),
        stages={**STAGES, "before": Evaluate(num_tasks=3), "after": Evaluate(num_tasks=3)},
    )
    train(config, tmp_path / "run")
    found = replay_store(tmp_path / "run" / "trajectories.jsonl")
    assert set(found.counts) == {"same"}
    assert found.ok


def test_an_environment_of_ones_own_file_is_named_to_be_replayed(tmp_path: Path, own_file: Path) -> None:
    run = tmp_path / "run"
    train(replace(CONFIG, env=EnvConfig(f"{own_file}:Echo")), run)
    own_file.write_text(FILE.replace("Say go.", "Say Go."))
    command = [sys.executable, "-m", "agentrl", "replay", str(run), "--env", f"{own_file}:Echo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=120)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["same"] == 0
    (version,) = report["versions"]
    assert version["recorded"] != version["here"]
    assert (report["differing"][0]["turn"], report["differing"][0]["part"]) == (None, "observation")
