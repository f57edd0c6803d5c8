"""Agreement with labels: the two numbers against scikit-learn, and the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from agentrl.bench.judges.agreement import agreement_of, cohens_kappa, read_labels
from agentrl.errors import ConfigError, JudgeFault
from agentrl.rollout.judging.judge import Verdict


def verdicts(flags: list[bool]) -> list[Verdict | JudgeFault]:
    return [Verdict(float(flag), flag) for flag in flags]


@pytest.mark.parametrize("seed", range(20))
def test_accuracy_and_kappa_are_those_of_scikit_learn(seed: int):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    right = (rng.random(int(rng.integers(5, 200))) < rng.uniform(0.1, 0.9)).tolist()
    said = [bool(r) if rng.random() < 0.8 else not r for r in right]
    found = agreement_of(verdicts(said), right)
    assert found.accuracy.mean == pytest.approx(metrics.accuracy_score(right, said), abs=1e-9)
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(right, said), abs=1e-9, nan_ok=True)


def test_kappa_by_hand():
    # 20 and 15 both agree on, 5 and 10 they do not: Cohen's example has 0.7 observed, 0.5 expected.
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4, abs=1e-12)
    assert cohens_kappa([(True, False), (False, True)]) == -1
    assert math.isnan(cohens_kappa([(True, True)] * 3))
    assert math.isnan(cohens_kappa([]))


def test_a_conversation_without_a_verdict_is_in_neither_number():
    found = agreement_of([Verdict(1.0, True), JudgeFault("down"), Verdict(0.0, False)], [True, True, True])
    assert (found.accuracy.mean, found.n, found.failed) == (0.5, 2, 1)
    told = found.to_json()
    assert (told["accuracy"]["mean"], told["n"], told["failed"]) == (0.5, 2, 1)
    assert agreement_of([Verdict(1.0, True)], [True]).to_json()["kappa"] is None


GOOD = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "passed": True}


def test_labels_are_read_with_their_references(tmp_path: Path):
    (tmp_path / "l.jsonl").write_text(f"{json.dumps({**GOOD, 'reference': 'r'})}\n\n{json.dumps(GOOD)}\n")
    first, second = read_labels(tmp_path / "l.jsonl")
    assert ([m.content for m in first.messages], first.passed, first.reference) == (["?", "!"], True, "r")
    assert second.reference == ""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: is not JSON"),
        (json.dumps({**GOOD, "passed": 1}), "line 2: passed must be true or false, got 1"),
        (json.dumps({**GOOD, "pased": True}), "line 2: the field 'pased' is not known"),
        (json.dumps({**GOOD, "messages": []}), "line 2: messages must be a list"),
        (json.dumps({**GOOD, "reference": 7}), "line 2: reference must be text"),
    ],
)
def test_a_wrong_line_is_named(line: str, why: str, tmp_path: Path):
    (tmp_path / "l.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(ConfigError, match=why):
        read_labels(tmp_path / "l.jsonl")
    (tmp_path / "l.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds no labelled conversation"):
        read_labels(tmp_path / "l.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "absent.jsonl")
