"""Code that draws from the global generators: with `own_random` an episode has its own."""

from __future__ import annotations

import asyncio
import random

import numpy as np

from agentrl.env.check import check_env
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.runner import rollout
from agentrl.tool_schema import tool


class Dice(ToolEnv):
    """Throws dice of a library that knows the global generators alone."""

    tasks = Tasks.of(train=[{"i": i} for i in range(4)], eval=[{"i": i} for i in range(4, 8)])
    own_random = True

    def start(self, task):
        self.log = [random.random()]
        return f"go {np.random.rand():.6f}"

    @tool
    async def throw(self) -> str:
        """Throws."""
        first = random.random()
        await asyncio.sleep(0)
        self.log += [first, random.random()]
        return f"{first} {np.random.rand()}"

    def score(self, answer):
        return random.random()


class Deeper(Dice):
    """Overrides what is wrapped, and calls it."""

    async def areset(self, *, seed=None, options=None):
        made = await super().areset(seed=seed, options=options)
        self.log.append(random.random())
        return made


def played(groups):
    return [
        [(t.action.text, *(m.content for m in t.next_observation), t.reward) for t in g.trajectories[0].turns]
        for g in groups
    ]


def test_episodes_repeat_alone_and_next_to_others_and_leave_the_process_as_it_was():
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    script = ScriptedPolicy([call("throw"), call("throw"), "done"])
    alone = [played(rollout(Dice, script, [f"train-{i}"], max_concurrency=1))[0] for i in range(4)]
    together = played(rollout(Dice, script, "train", max_concurrency=4))
    assert alone == together
    # One seed for all tasks here, so all throw the same; another seed throws others.
    assert alone[0] != played(rollout(Dice, script, ["train-0"], seeds=[9]))[0]
    assert (random.random(), np.random.rand()) == expected


def test_a_fork_goes_on_with_the_same_numbers():
    env = Dice()
    env.reset(seed=3)
    env.step(call("throw"))
    twin = env.fork()
    assert env.step(call("throw"))[0] == twin.step(call("throw"))[0]
    assert env.step("done")[1] == twin.step("done")[1]
    env.close()
    twin.close()


def test_a_subclass_draws_on_from_the_same_generators():
    env, plain = Deeper(), Dice()
    env.reset(seed=3)
    plain.reset(seed=3)
    assert env.log[0] == plain.log[0]
    assert env.log[1] not in plain.log
    again = Deeper()
    again.reset(seed=3)
    assert again.log == env.log


def test_check_has_nothing_to_say_about_the_generators():
    report = check_env(Dice, processes=False, tasks=2)
    found = [f.problem for f in report.findings if f.code in ("global-rng", "nondeterministic")]
    assert not found, found[0]
    loose = type("Loose", (Dice,), {"own_random": False, "areset": ToolEnv.areset, "astep": ToolEnv.astep})
    report = check_env(loose, processes=False, tasks=2)
    assert {"global-rng", "nondeterministic"} & {f.code for f in report.findings}
