"""reasoning-gym over a small stand-in for the package."""

from __future__ import annotations

import pytest

from agentrl.adapters import reasoning_gym
from agentrl.env.registry import make
from tests.adapters.fakes import forget, install

ID = "agentrl.adapters.reasoning_gym:ReasoningGym"
FILES = {
    "__init__.py": "from reasoning_gym.factory import create_dataset",
    "factory.py": """
        import random
        class Sums:
            def __init__(self, seed, size, most=9):
                self.seed, self.most = seed, most
            def __getitem__(self, index):
                random.seed(self.seed + index)
                a, b = random.randint(1, self.most), random.randint(1, 2)
                return {"question": f"{a}+{b}?", "answer": str(a + b), "metadata": {}}
            def score_answer(self, answer, entry):
                if answer == "no memory":
                    raise MemoryError
                if answer == "raise":
                    raise ValueError("not a number")
                return 1.0 if answer == entry["answer"] else 0.01
        class Open(Sums):
            def __getitem__(self, index):
                entry = super().__getitem__(index)
                return {"question": entry["question"], "answer": None, "metadata": {"example_answer": entry["answer"]}}
            def score_answer(self, answer, entry):
                return float(answer == entry["metadata"]["example_answer"])
        class Unseeded(Sums):
            def __getitem__(self, index):
                entry = {"question": str(random.random()), "answer": "1", "metadata": {}}
                return entry
        class Run(Sums):
            def score_answer(self, answer, entry):
                oracle_answer = entry["answer"]
                if answer == oracle_answer:
                    return 1.0
                try:
                    return 0.1 * (str(eval(answer)) == oracle_answer)
                except Exception:
                    return 0.0
        DATASETS = {"sums": Sums, "spiral_matrix": Run, "open": Open, "unseeded": Unseeded, "composite": None}
        def create_dataset(name, **settings):
            return DATASETS[name](**settings)
        """,
    "utils.py": """
        import re
        def extract_answer(text):
            found = re.findall("<answer>(.*?)</answer>", text)
            return found[-1] if found else None
        """,
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "reasoning_gym", FILES)
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(FILES["__init__.py"])
    forget("reasoning_gym", reasoning_gym)
    yield
    forget("reasoning_gym", reasoning_gym)


@pytest.mark.parametrize("dataset", ["sums", "open"])
def test_the_answer_and_an_example_among_the_metadata_are_oracles(dataset):
    env = make(ID, dataset=dataset)
    messages, _ = env.reset(seed=0, options={"split": "eval"})
    assert messages[0].content.endswith("between <answer> and </answer>.")
    _, reward, terminated, _, info = env.step(env.oracle(messages))
    assert (reward, terminated, info["task_id"].startswith(f"{dataset}-eval-")) == (1.0, True, True)


def test_an_answer_that_a_verifier_would_run_cannot_read_the_right_one():
    env = make(ID, dataset="spiral_matrix")
    paid = {}
    for text in ("oracle_answer", "entry['answer']", "str(int(oracle_answer))", "{right}", " {right}"):
        messages, _ = env.reset(seed=0)
        right = env.oracle(messages).text.removeprefix("<answer>").removesuffix("</answer>")
        paid[text] = env.step(f"<answer>{text.replace('{right}', right)}</answer>")[1]
    assert list(paid.values()) == [0.0, 0.0, 0.0, 1.0, 0.1]


def test_a_part_is_paid_and_is_no_success_and_a_verifier_that_raises_pays_nothing():
    env = make(ID, dataset="sums")
    env.reset(seed=0)
    _, reward, _, _, info = env.step("<answer>-1</answer>")
    assert (reward, info.get("success", False)) == (0.01, False)
    env.reset(seed=0)
    _, reward, _, _, info = env.step("raise")
    assert (reward, info["verifier_raised"]) == (0.0, "ValueError: not a number")
    env.reset(seed=0)
    with pytest.raises(MemoryError):  # a rollout records a fault of the machine, and no reward
        env.step("no memory")


def test_no_question_is_in_both_splits_and_few_questions_give_few_tasks():
    tasks = make(ID, dataset="sums", train=40, held_out=5).tasks
    train, held_out = ({t.data["question"] for t in tasks.split(name)} for name in ("train", "eval"))
    assert len(held_out) == 5
    assert train.isdisjoint(held_out)
    assert len(train) == len(tasks.split("train")) <= 13


def test_a_generator_that_draws_from_the_process_gives_the_same_questions_again():
    first = [task.fingerprint for task in make(ID, dataset="unseeded", train=3).tasks.split("train")]
    reasoning_gym._tasks.cache_clear()
    assert [task.fingerprint for task in make(ID, dataset="unseeded", train=3).tasks.split("train")] == first


def test_all_data_sets_but_those_that_need_arguments_and_mistakes_are_told():
    tasks = make(ID, dataset="all", train=1, held_out=1).tasks.split("eval")
    assert [task.data["dataset"] for task in tasks] == ["open", "spiral_matrix", "sums", "unseeded"]
    with pytest.raises(ValueError, match=r"no data set 'sum'\. Did you mean 'sums'"):
        make(ID, dataset="sum")
    with pytest.raises(ValueError, match="config is for one data set"):
        make(ID, dataset="all", config={"most": 3})
