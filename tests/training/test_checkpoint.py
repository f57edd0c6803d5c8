import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import ReferenceKL
from agentrl.learning.optimizers import Schedule
from agentrl.training import checkpoint

MUON = LearnerSettings(
    lr=0.01,
    optimizer="muon",
    num_epochs=2,
    num_minibatches=2,
    schedule=Schedule("cosine", warmup_steps=2),
)
ADAMW = LearnerSettings(lr=1e-3, weight_decay=0.01, schedule=Schedule("linear"))
CLIP = PPOClip()
NEAR = weighted([(1.0, CLIP), (0.05, ReferenceKL())])


async def step(learner, rows, objective):
    """One update, columns filled first."""
    for column in ("reference_logprobs",) if objective is NEAR else ():
        rows = await learner.fill(rows, column)
    return await learner.update(rows, objective)


def weights_bytes(model):
    return {name: value.view(torch.uint8).numpy().tobytes() for name, value in model.state_dict().items()}


def drawn():
    """One number from each global generator."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


@pytest.fixture
def small_save(make_model, tmp_path):
    """Save a little checkpoint of a step."""
    model = make_model(dtype=torch.float32)
    return lambda step, **settings: checkpoint.save(tmp_path / "checkpoints", step, model, **settings)


@pytest.mark.parametrize(("settings", "objective"), [(MUON, NEAR), (ADAMW, CLIP)], ids=["muon", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_resuming_is_bit_identical(make_model, make_rows, tmp_path, settings, objective, dtype):
    steps = [make_rows(seed) for seed in range(5)]
    make_model(dtype=torch.float32).save_pretrained(tmp_path / "start")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=dtype)
    learner = Learner(model, settings, objective, total_steps=9)
    for rows in steps[:2]:
        await step(learner, rows, objective)
    path = checkpoint.save(tmp_path, 2, model, learner=learner, extra={"cursor": [3, "b"], "x": 0.1})
    metrics = [await step(learner, rows, objective) for rows in steps[2:]]

    resumed = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    other = Learner(resumed, settings, objective, total_steps=9)
    found = checkpoint.read(path)
    found.restore(other)
    assert (found.step, found.extra) == (2, {"cursor": [3, "b"], "x": 0.1})
    assert [await step(other, rows, objective) for rows in steps[2:]] == metrics
    left, right = weights_bytes(model), weights_bytes(resumed)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def test_global_random_states_come_back(small_save):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    np.random.standard_normal()  # leaves a cached second normal in the state
    path = small_save(1)
    expected = drawn(), float(np.random.standard_normal())
    drawn()
    checkpoint.read(path).restore()
    assert (drawn(), float(np.random.standard_normal())) == expected


def test_a_checkpoint_is_a_model_folder_with_its_tokenizer(make_model, tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            Path(folder, "tokenizer.json").write_text("{}")

    model = make_model(dtype=torch.float32)
    path = checkpoint.save(tmp_path, 7, model, tokenizer=Tokenizer())
    assert path.name == "step-00000007"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in path.iterdir()}
    ids = torch.arange(5)[None]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(path)(ids).logits, model(ids).logits)


def test_only_the_newest_are_kept(small_save, tmp_path):
    for step in (1, 2, 10, 30):
        path = small_save(step, keep=2)
    assert sorted(p.name for p in path.parent.iterdir()) == ["step-00000010", "step-00000030"]
    assert checkpoint.latest(path.parent) == path
    assert checkpoint.latest(tmp_path / "none") is None
    with pytest.raises(ValueError, match="keep must be at least 1"):
        small_save(40, keep=0)


def test_saving_a_step_again_replaces_it(small_save):
    small_save(1, extra={"try": 1})
    path = small_save(1, extra={"try": 2})
    assert checkpoint.read(path).extra == {"try": 2}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "corrupt": flip_a_bit,
    "bytes, expected": cut_short,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("message", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "extra.json", "manifest.json", "config.json"])
def test_damage_is_named_and_the_one_before_is_found(small_save, name, message):
    before, newest = small_save(1), small_save(2)
    DAMAGES[message](newest / name)
    if (name, message) == ("manifest.json", "bytes, expected"):
        message = "corrupt"
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(newest)
    assert str(newest / name) in str(caught.value) or name == "manifest.json"
    assert message in str(caught.value) or name == "manifest.json"
    assert f"Fall back to {before}" in str(caught.value)
    assert checkpoint.latest(newest.parent) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": "x"}, "step = 'x' is no number of a step"),
        ({"step": True}, "step = True is no number of a step"),
        ({"config_fingerprint": 3}, "config_fingerprint = 3 no text"),
        ({"files": {}}, "files does not name extra.json and state.pt"),
        ({"files": ["state.pt"]}, "files does not give size and hash"),
        ({"files": {"state.pt": 3, "extra.json": 3}}, "files does not give size and hash"),
    ],
)
def test_a_manifest_that_was_edited_is_damage_like_any_other(small_save, changed, message):
    before, newest = small_save(1), small_save(2)
    manifest = newest / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changed}))
    with pytest.raises(CheckpointError, match=r"manifest.json is corrupt") as caught:
        checkpoint.read(newest)
    assert message in str(caught.value)
    assert checkpoint.latest(newest.parent) == before


def test_nothing_intact_is_an_error_not_a_fresh_start(small_save):
    path = small_save(1)
    cut_short(path / "state.pt")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact"):
        checkpoint.latest(path.parent)
    with pytest.raises(CheckpointError, match="No other checkpoint"):
        checkpoint.read(path)


def test_another_configuration_is_refused(small_save):
    one, two = checkpoint.fingerprint({"a": 1, "b": 2}), checkpoint.fingerprint({"b": 2, "a": 3})
    assert one == checkpoint.fingerprint({"b": 2, "a": 1})
    path = small_save(1, config_fingerprint=one)
    assert checkpoint.read(path, config_fingerprint=one).step == 1
    with pytest.raises(ConfigError, match="another configuration"):
        checkpoint.read(path, config_fingerprint=two)


def test_another_learner_is_refused(make_model, make_rows, tmp_path):
    model = make_model(dtype=torch.float32)
    path = checkpoint.save(tmp_path, 1, model, learner=Learner(model, ADAMW, CLIP))
    with pytest.raises(ValueError, match=r"same learner\.optimizer"):
        checkpoint.read(path).restore(Learner(model, MUON, CLIP))
    with pytest.raises(ValueError, match="only one of state and learner has a reference"):
        checkpoint.read(path).restore(Learner(model, ADAMW, NEAR))
    with pytest.raises(CheckpointError, match="holds no learner state"):
        checkpoint.read(checkpoint.save(tmp_path, 2, model)).restore(Learner(model, ADAMW, CLIP))


@pytest.mark.parametrize("room", [100, 4_000, 60_000])
def test_a_full_disk_leaves_earlier_checkpoints_alone(make_model, tmp_path, room):
    """The kernel refuses to let a file grow, as it does when a disk is full."""
    model = make_model(dtype=torch.float32)
    before = checkpoint.save(tmp_path, 1, model, learner=Learner(model, ADAMW, CLIP), keep=1)
    content = {p.name: p.read_bytes() for p in before.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(CheckpointError, match="free disk space"):
            checkpoint.save(tmp_path, 2, model, learner=Learner(model, ADAMW, CLIP), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == [before.name]
    assert {p.name: p.read_bytes() for p in before.iterdir()} == content
    assert checkpoint.save(tmp_path, 2, model) == checkpoint.latest(tmp_path)


def test_state_that_is_not_json_is_refused_before_anything_is_written(small_save, tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        small_save(1, extra={"generator": object()})
    assert not (tmp_path / "checkpoints").exists()


def test_leftovers_of_a_killed_process_are_cleared_or_undone(small_save):
    path = small_save(1)
    root = path.parent
    shutil.copytree(path, root / ".writing-00000002-123")
    path.rename(root / ".replaced-step-00000001-123")  # killed between the two renames of a replacement
    assert checkpoint.latest(root) == path
    assert [p.name for p in root.iterdir()] == [path.name]


def test_extra_is_written_as_json(small_save):
    assert json.loads((small_save(1, extra={"queue": [1, 2]}) / "extra.json").read_text()) == {"queue": [1, 2]}


TRAINING = """
import asyncio, sys, torch, numpy as np
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
from agentrl.training import checkpoint
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.rows import Row, with_coefficients

start, root, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
found = checkpoint.latest(root)
model = AutoModelForCausalLM.from_pretrained(found or start, dtype=torch.float32)
learner = Learner(model, LearnerSettings(lr=1e-3), PPOClip())
step = 0
torch.manual_seed(5)
if found:
    state = checkpoint.read(found)
    state.restore(learner)
    step = state.extra["step"]
while step < last:
    ids = torch.randint(0, 64, (12,)).numpy()   # the data depend on the global generator
    row = Row.of(ids, np.arange(12) > 3, old_logprobs=-4.0, advantages=1.0)
    asyncio.run(learner.update(with_coefficients([row], "token"), PPOClip()))
    step += 1
    checkpoint.save(root, step, model, learner=learner, extra={"step": step})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_kill_9_in_mid_training_and_resume_is_bit_identical(make_model, tmp_path):
    make_model(dtype=torch.float32).save_pretrained(tmp_path / "start")

    def command(root, last):
        return [sys.executable, "-c", TRAINING, str(tmp_path / "start"), str(tmp_path / root), str(last)]

    with subprocess.Popen(command("killed", 100_000), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 3:
                time.sleep(0.013)
                break
        process.send_signal(signal.SIGKILL)
    reached = checkpoint.read(checkpoint.latest(tmp_path / "killed")).step
    for root in ("killed", "whole"):
        subprocess.run(command(root, reached + 4), check=True, capture_output=True)
    weights = [(checkpoint.latest(tmp_path / root) / "model.safetensors").read_bytes() for root in ("killed", "whole")]
    assert checkpoint.latest(tmp_path / "whole").name == f"step-{reached + 4:08d}"
    assert weights[0] == weights[1]
    assert os.listdir(tmp_path / "killed") == os.listdir(tmp_path / "whole")
