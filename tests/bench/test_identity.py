"""What a benchmark is of: which changes of a policy, an environment or a folder are noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gymnasium import Wrapper

from agentrl.bench.identity import Identity, files_fingerprint, identify, same_env
from agentrl.env.base import Env
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.by_name import PolicySetup
from agentrl.policy.scripted import NullPolicy
from agentrl.trajectory import EnvRef
from tests.bench.toys import Adder, Some


def identity(given: str | Policy = "null", setup: PolicySetup | None = None, env: type[Env] = Adder) -> Identity:
    probe = env()
    return identify(
        env,
        probe,
        probe.tasks.split("eval"),
        split="eval",
        seed=0,
        given=given,
        policy=given if isinstance(given, Policy) else Some(),
        setup=setup,
        sampling=None,
    )


def differences(first: Identity, second: Identity) -> str:
    return "; ".join(second.differences(first.to_json()))


def test_the_same_is_the_same() -> None:
    assert differences(identity(), identity()) == ""
    assert differences(identity("openai:bot"), identity("openai:bot")) == ""


def model(folder: Path) -> Path:
    """A folder as a model has it, with weights that are read whole and weights that are read in part."""
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "inner" / "tokenizer.json").write_text("{}")
    (folder / "small.safetensors").write_bytes(bytes(1000))
    with (folder / "large.safetensors").open("wb") as file:
        file.truncate((1 << 24) + 5000)
    return folder


def rewrite(offset: int, name: str = "large.safetensors") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(offset)
            file.write(b"x" * (1 << 18))

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text('{"model_type": "tony"}'),
        lambda folder: (folder / "inner" / "tokenizer.json").write_text("[]"),
        lambda folder: (folder / "small.safetensors").write_bytes(bytes(999) + b"x"),
        lambda folder: (folder / "adapter.bin").write_bytes(b""),
        lambda folder: (folder / "inner").rename(folder / "outer"),
        rewrite(0),
        rewrite(5_000_000),
        rewrite(1 << 24),
    ],
)
def test_other_files_of_a_model_are_noticed(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    given = f"local:{model(tmp_path / 'model')}"
    before = identity(given)
    change(tmp_path / "model")
    assert "behaviour.files" in differences(before, identity(given))
    assert "the model's files were changed" in differences(before, identity(given))


def test_a_copy_of_a_model_and_its_hidden_files_are_no_change(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("x")
    assert files_fingerprint(folder) == files_fingerprint(copy)
    assert files_fingerprint(folder / "config.json") == files_fingerprint(copy / "config.json")


def test_another_server_is_noticed_and_its_secrets_are_kept_out() -> None:
    secret = PolicySetup(
        base_url="https://me:hunter2@one.example/v1/?key=hunter3", chat={"extra_body": {"k": "hunter4"}}
    )
    first = identity("openai:bot", secret)
    assert "hunter" not in str(first.to_json())
    assert first.behaviour["server"] == "https://one.example/v1"
    second = identity("openai:bot", replace(secret, base_url="https://two.example/v1"))
    assert differences(first, second) == "behaviour.server 'https://one.example/v1', not 'https://two.example/v1'"
    third = identity("openai:bot", replace(secret, chat={"extra_body": {"k": 1}, "tool_choice": "required"}))
    assert "behaviour.extra_body" in differences(first, third)
    assert "behaviour.tool_choice None, not 'required'" in differences(first, third)
    # Patience and speed do not change what a model says.
    assert differences(first, identity("openai:bot", replace(secret, chat={**secret.chat, "timeout_s": 9}))) == ""


def test_another_device_is_no_other_policy_and_another_format_is(tmp_path: Path) -> None:
    given = f"local:{model(tmp_path / 'model')}"
    first = identity(given, PolicySetup(local={"device": "cpu", "chat_format": "hermes"}))
    assert differences(first, identity(given, PolicySetup(local={"device": "cuda", "chat_format": "hermes"}))) == ""
    assert "behaviour.chat_format" in differences(first, identity(given, PolicySetup(local={"chat_format": "auto"})))


def test_another_policy_is_named_alone() -> None:
    first = identity()
    other = replace(first, policy="other", behaviour={"class": "x"}, sampling={"temperature": 1.0})
    assert differences(first, other) == "policy 'some', not 'other'"
    elsewhere = replace(first, env=EnvRef("other"), code="", tasks={})
    assert differences(first, elsewhere) == "environment 'Adder', not 'other'"


def test_an_edited_class_without_a_file_is_noticed() -> None:
    # As in a notebook: the class of a cell that was run again has no file.
    classes = []
    for answer in ("1", "2"):
        space: dict[str, Any] = {"Adder": Adder, "__name__": "notebook"}
        exec(f"class Cell(Adder):\n    async def score(self, answer):\n        return float(answer == {answer})", space)
        classes.append(space["Cell"])
    assert "the environment's code was edited" in differences(identity(env=classes[0]), identity(env=classes[1]))
    assert differences(identity(env=classes[0]), identity(env=classes[0])) == ""


def test_an_edited_policy_is_noticed() -> None:
    found = []
    for answer in ("1", "2"):
        space: dict[str, Any] = {"Some": Some, "__name__": "notebook"}
        exec(f"class Agent(Some):\n    async def act(self, *_, **more):\n        return {answer}", space)
        found.append(identity(space["Agent"]()))
    assert "the policy's code was edited" in differences(*found)
    assert identity(NullPolicy()).behaviour["code"] == ""  # AgentRL's version covers it


class Wrapped(Wrapper[Any, Any, Any, Any]):
    """Changes nothing."""


def test_a_wrapper_is_part_of_an_environment() -> None:
    def wrapped() -> Env:
        return Wrapped(Adder())  # type: ignore[return-value]

    probe = wrapped()
    plain = identity()
    found = identify(wrapped, probe, (), split="eval", seed=0, given="null", policy=Some(), setup=None, sampling=None)
    assert plain.code == ""  # the version covers it
    assert "code '', not" in differences(replace(plain, tasks={}, env=found.env), found)


def test_an_older_form_of_identity_is_another_one() -> None:
    assert "agentrl None, not" in "; ".join(identity().differences({"env": {"id": "Adder"}, "policy": "some"}))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (EnvRef("a/A-v0"), EnvRef("a/A-v0", version="2"), True),
        (EnvRef("a/A-v0"), EnvRef("a/A-v0", {"n": 1}), False),
        (EnvRef("a/A-v0"), EnvRef("a/B-v0"), False),
        (EnvRef("a/A-v0", version="1"), EnvRef("a/B-v0", version="1"), False),
        (EnvRef("./a.py:A", version="1"), EnvRef("/x/a.py:A", version="1"), True),
        (EnvRef("./a.py:A", version="1"), EnvRef("/x/a.py:B", version="1"), False),
        (EnvRef("./a.py:A", {"n": 1}, version="1"), EnvRef("/x/a.py:A", version="1"), False),
        (EnvRef("./a.py:A"), EnvRef("/x/a.py:A"), False),
    ],
)
def test_which_references_name_one_environment(first: EnvRef, second: EnvRef, same: bool) -> None:
    assert same_env(first, second) is same
    assert same_env(second, first) is same


def test_the_seed_of_an_episode_is_no_part_of_the_sampling() -> None:
    policy = Some()
    policy.sampling = SamplingParams(seed=3, stop=("a",))  # type: ignore[attr-defined]
    found = identify(
        Adder, Adder(), (), split="eval", seed=0, given=policy, policy=policy, setup=None, sampling=None
    ).sampling
    assert found == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 256, "stop": ["a"]}
