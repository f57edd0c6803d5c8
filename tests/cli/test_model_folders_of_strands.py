"""The three shipped strands on a user's model folder, by the commands of their pages, made short."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from tests.policy import families

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
QUICK = {
    "rlsf": (
        "stages.warm_start.num_episodes=8",
        "stages.warm_start.epochs=1",
        "stages.before.num_tasks=4",
        "stages.rlsf.steps=1",
        "stages.rlsf.playing={prompts_per_step=2,group_size=2}",
        "stages.rlsf.canary={num_tasks=2,trials=2,threshold=0.0,drop=1.0,every=1}",
        "stages.after.num_tasks=4",
        "sampling.max_tokens=4",
    ),
    "numeric": (
        "stages.start.num_episodes=8",
        "stages.start.epochs=1",
        "stages.rl.steps=1",
        "stages.rl.playing={prompts_per_step=2,group_size=2}",
        "stages.after.num_tasks=4",
        "stages.after.trials=2",
        "sampling.max_tokens=4",
    ),
    "multitask": (
        "stages.warm_start.num_episodes=2",
        "stages.before.num_tasks=1",
        "stages.rl.steps=1",
        "stages.rl.playing={prompts_per_step=2,group_size=2}",
        "stages.after.num_tasks=1",
        "sampling.max_tokens=4",
    ),
}
PAGES = {"rlsf": "rlsf.md", "numeric": "numbers.md", "multitask": "multitask.md"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.save_folder("qwen2", tmp_path_factory.mktemp("folder") / "model")


def command_of(strand: str) -> list[str]:
    """The words behind `agentrl` of the page's command for a model folder."""
    text = (ROOT / "docs" / PAGES[strand]).read_text(encoding="utf-8").replace("\\\n", " ")
    found = [line for line in re.findall(r"^agentrl (train .*)$", text, flags=re.M) if "model.path=FOLDER" in line]
    assert len(found) == 1, f"{PAGES[strand]} has one command for a model folder"
    return shlex.split(found[0])


@pytest.mark.parametrize("strand", QUICK)
def test_the_command_of_the_page_trains_a_model_folder(
    strand: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word.replace("FOLDER", str(model)) for word in command_of(strand)]
    quick = [word for setting in QUICK[strand] for word in ("--set", setting)]
    result = CliRunner().invoke(main, [*words, *quick, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stages"]["after"]["n_faults"] == 0
    assert summary["before" if strand != "numeric" else "after"] is not None
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["model_type"] == "qwen2"
