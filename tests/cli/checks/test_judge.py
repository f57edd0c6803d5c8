"""`agentrl judge` and `agentrl bench --judge`: scores beside the agreement, failures apart, wrong options told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main

JUDGES = """
import json, re
from agentrl.messages import Action
from agentrl.policy.base import Policy

class Strict(Policy):
    "Passes what holds a digit; has no words for what holds none."
    name = "strict"
    async def act(self, messages, tools, *, episode_id, sampling=None):
        code = re.search(r'"code": "(\\w+)"', messages[0].content)[1]
        if f"BEGIN 1 {code}" in messages[1].content:
            return Action(json.dumps({"code": code, "reason": "r", "score": 1}))
        lines = messages[1].content.split(f"BEGIN {code}\\n")[-1].split(f"\\nEND {code}")[0].splitlines()
        last = json.loads(lines[-1])["content"]
        if not last:
            return Action("I do not know.")
        return Action(json.dumps({"code": code, "reason": "r", "score": 10 * any(map(str.isdigit, last))}))
"""
LABELS = [("7", True), ("x", False), ("8", False)]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "judges.py").write_text(JUDGES)
    return f"{tmp_path / 'judges.py'}:Strict"


@pytest.fixture
def rubric(tmp_path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}], "passed": passed}
        for text, passed in LABELS
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rubric.toml").write_text('text = "Is there a number?"\nlabels = "labels.jsonl"\n')
    return tmp_path / "rubric.toml"


def test_a_benchmark_shows_the_judge_beside_its_agreement(judge: str, rubric: Path, tmp_path: Path) -> None:
    words = ("bench", "agentrl/Calculator-v0", "--tasks", 4, "--judge", judge, "--rubric", rubric)
    done = run(*words, "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert "agrees with labels" in done.stdout
    assert "kappa 0.40" in done.stdout
    assert (tmp_path / "b" / "verdicts.sqlite").exists()
    told = json.loads(run(*words, "--out", tmp_path / "b", "--json").stdout)["judge"]
    assert (told["passed"]["mean"], told["labels"]["n"], told["environment"]["accuracy"]["mean"]) == (1.0, 3, 1.0)


def test_an_episode_without_a_verdict_makes_the_result_untrusted(judge: str, tmp_path: Path) -> None:
    out = tmp_path / "b"
    words = ("--policy", "null", "--judge", judge, "--rubric", "Is there a number?", "--out", out, "--no-references")
    done = run("bench", "agentrl/Calculator-v0", "--tasks", 2, *words)
    assert done.exit_code == 3, done.output
    assert "gave no verdict on 2 of 2 episodes" in " ".join(done.stdout.split())
    judged = run("judge", out, "--judge", judge, "--rubric", "Is there a number?", "--json")
    assert judged.exit_code == 3
    told = json.loads(judged.stdout)
    assert (told["judged"]["failed"], told["judged"]["passed"]["mean"]) == ({"unreadable": 2}, None)
    assert told["judged"]["passed_of_all"]["mean"] == 0.0


def test_recorded_episodes_are_judged_and_the_judge_is_measured(judge: str, rubric: Path, tmp_path: Path) -> None:
    run("bench", "agentrl/Calculator-v0", "--tasks", 3, "--out", tmp_path / "b")
    done = run("judge", tmp_path / "b", "--judge", judge, "--rubric", rubric, "--bias", 3, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["judged"]["n_judged"] == 3
    assert told["labels"]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert told["bias"]["talked_over"] == 1.0, "the talk holds digits, which this judge takes for an answer"
    shown = run("judge", "--judge", judge, "--rubric", rubric, "--bias", 3)
    assert shown.exit_code == 0, shown.output
    assert "failing answers that pass by that" in shown.stdout
    assert "100%" in shown.stdout


@pytest.mark.parametrize(
    ("words", "why", "code"),
    [
        (["bench", "agentrl/Calculator-v0", "--judge", "openai:x"], "--judge is given without the other", 1),
        (["bench", "agentrl/Calculator-v0", "--rubric", "x"], "--rubric is given without the other", 1),
        (["bench", "agentrl/Calculator-v0", "--judge", "oracle", "--rubric", "x"], "reads no rubric", 1),
        (["bench", "agentrl/Calculator-v0", "--judge", "opena:x", "--rubric", "x"], "no policy 'opena:x'", 1),
        (["bench", "suite.toml", "--judge", "openai:x", "--rubric", "x"], "`agentrl judge` judges what was played", 2),
        (["judge", "--judge", "openai:x", "--rubric", "x"], "nothing to judge", 2),
        (["judge", "runs/x"], "name a judge and what it judges by", 2),
        (["judge", "nowhere", "--judge", "openai:x", "--rubric", "x"], "there are no episodes at", 1),
        (["judge", "--judge", "openai:x", "--rubric", "x", "--labels", "none.jsonl"], "cannot be read", 1),
    ],
)
def test_wrong_options_are_told(words: list[str], why: str, code: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code == code, done.output
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []
