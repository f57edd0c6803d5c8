"""Policies by name: the grammar, its errors, and that nothing heavy is imported for a name."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, ModelError
from agentrl.messages import Action, Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import POLICIES, PolicySetup, PolicySpec, default_sampling, parse_spec, resolve
from agentrl.policy.chat import ChatPolicy
from agentrl.policy.scripted import HumanPolicy, NullPolicy, OraclePolicy, RandomPolicy


@pytest.mark.parametrize(
    ("text", "kind", "argument"),
    [
        ("oracle", "oracle", ""),
        (" null ", "null", ""),
        ("scripted:hasty", "scripted", "hasty"),
        ("local:/models/a:b", "local", "/models/a:b"),
        ("openai:meta-llama/Llama-3:free", "openai", "meta-llama/Llama-3:free"),
    ],
)
def test_names_are_read(text: str, kind: str, argument: str) -> None:
    assert parse_spec(text) == PolicySpec(kind, argument)
    assert str(parse_spec(text)) == text.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("orcale", "Did you mean 'oracle'?"),
        ("opnai:gpt-4o", "Did you mean 'openai:gpt-4o'?"),
        ("gpt-4o", "A model behind a server is 'openai:gpt-4o'. A policy is oracle | null"),
        ("local", "after 'local:' comes a folder with a transformers model"),
        ("openai: ", "after 'openai:' comes the model's name"),
        ("oracle:x", "'oracle' takes nothing after it"),
        ("", "A policy is oracle"),
        ("http://host/v1", "A policy is oracle"),
    ],
)
def test_wrong_names_say_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert words in str(caught.value)


def test_a_folder_alone_is_taken_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean 'local:{tmp_path}'"):
        parse_spec(str(tmp_path))


def test_the_kinds_without_a_model() -> None:
    assert type(resolve("null")) is NullPolicy
    oracle = resolve("oracle")
    assert isinstance(oracle, OraclePolicy)
    assert (oracle.name, oracle.mixture) == ("oracle", {"oracle": 1.0})
    hasty = resolve("scripted:hasty", demonstrators=("oracle", "hasty"))
    assert isinstance(hasty, OraclePolicy)
    assert (hasty.name, hasty.mixture) == ("scripted:hasty", {"hasty": 1.0})
    chance = resolve("random", PolicySetup(seed=5))
    assert isinstance(chance, RandomPolicy)
    assert chance.seed == 5


def test_a_demonstrator_that_is_none_suggests_the_near_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hasty'"):
        resolve("scripted:hastey", demonstrators=("oracle", "hasty"))


def test_human_needs_somebody_to_ask() -> None:
    async def prompt(messages: object, tools: object) -> Action:
        return Action("hi")

    assert isinstance(resolve("human", prompt=prompt), HumanPolicy)
    with pytest.raises(ConfigError, match="agentrl play"):
        resolve("human")


def test_a_server_gets_its_address_sampling_and_options() -> None:
    policy = resolve(
        "openai:m",
        base_url="http://localhost:8000/v1",
        sampling=SamplingParams(temperature=0.0),
        chat={"timeout_s": 7.0, "max_retries": 1},
    )
    assert isinstance(policy, ChatPolicy)
    assert repr(policy) == "ChatPolicy('m', url='http://localhost:8000/v1/chat/completions')"
    assert (policy.sampling.temperature, policy.options.timeout_s, policy.name) == (0.0, 7.0, "openai:m")


def test_a_base_url_with_another_kind_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"goes with openai:NAME, .* not with 'local:x'"):
        resolve("local:x", base_url="http://localhost:8000/v1")


def test_local_folders_that_hold_no_model(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    with pytest.raises(ModelError, match=r"no folder .*quikstart'\. Did you mean 'quickstart'"):
        resolve(f"local:{tmp_path}/quikstart")
    with pytest.raises(ModelError, match=r"holds no model: config\.json is missing"):
        resolve(f"local:{tmp_path}/quickstart")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file: give the folder"):
        resolve(f"local:{tmp_path}/file")
    model = tmp_path / "quickstart" / "checkpoints" / "step-9"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"Did you mean 'local:{model}'"):
        resolve(f"local:{tmp_path}/quickstart")


def test_naming_a_policy_imports_neither_torch_nor_httpx() -> None:
    program = (
        "import sys\n"
        "from agentrl.policy.by_name import resolve\n"
        "resolve('oracle'), resolve('null'), resolve('random')\n"
        "assert not {'torch', 'transformers', 'httpx'} & set(sys.modules), 'imported too early'\n"
        "resolve('openai:m')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_local_model_folder_becomes_a_policy(tmp_path: Path) -> None:
    tiny = pytest.importorskip("agentrl.policy.tiny")
    model_folder = pytest.importorskip("agentrl.policy.model_folder")
    model_folder.save(tmp_path / "model", *tiny.build_tiny(["1+2 = 3"], hidden_size=16, num_layers=1))
    policy = resolve(f"local:{tmp_path}/model", seed=3, sampling=SamplingParams(max_tokens=4))
    assert policy.name == f"local:{tmp_path}/model"
    action = await policy.act([Message("user", "1+2")], (), episode_id="e")
    assert action.token_ids
    assert len(action.token_ids) <= 4


def test_default_sampling_is_what_the_policy_would_use() -> None:
    chat = resolve("openai:m", base_url="http://localhost/v1")
    assert isinstance(chat, ChatPolicy)
    assert default_sampling("openai:m") == chat.sampling
    assert default_sampling("local:x") == SamplingParams()


def test_a_policy_from_outside_is_found_by_its_first_word(monkeypatch):
    made = NullPolicy()
    monkeypatch.setitem(POLICIES._given, "mine", lambda argument, setup: (argument, setup.seed, made))
    assert resolve("mine", seed=3) == ("", 3, made)
    assert resolve("mine:x") == ("x", 0, made)


AGENT = """
from agentrl.messages import Action
from agentrl.policy.base import Policy

class Agent(Policy):
    async def act(self, messages, tools, *, episode_id, sampling=None):
        return Action("42")

def seeded(setup):
    made = Agent()
    made.seed = setup.seed
    return made

instance = Agent()
nothing = 3
"""


def test_code_of_your_own_is_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agents.py").write_text(AGENT)
    file = f"{tmp_path / 'my_agents.py'}"
    agent = resolve(f"{file}:Agent")
    assert (agent.name, type(agent).__name__) == (f"{file}:Agent", "Agent")
    assert getattr(resolve(f"{file}:seeded", PolicySetup(seed=7)), "seed", None) == 7
    assert type(resolve(f"{file}:instance")).__name__ == "Agent"
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("my_agents:Agent").name == "my_agents:Agent"
    assert str(parse_spec("my_agents:Agent")) == "my_agents:Agent"
    for wrong, words in ((f"{file}:nothing", "is int: name a Policy"), (f"{file}:Agnt", "Did you mean 'Agent'")):
        with pytest.raises(ConfigError, match=words):
            resolve(wrong)
