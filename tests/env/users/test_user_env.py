"""A second speaker in an episode: what it hears and says, its stop rule, and the same words when taken again."""

from __future__ import annotations

import copy
import pickle

import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.env.users.user import Heard, LastWords, ScriptedUser, User
from agentrl.env.users.user_env import UserEnv
from agentrl.errors import EnvFault, PolicyFault
from agentrl.learning.rows import build_rows
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.replay import areplay
from agentrl.rollout.requests import Fork, GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.rollout.users.policy_user import PolicyUser
from agentrl.tool_schema import tool
from agentrl.trajectory import Ending, Task, Trajectory, TrajectoryGroup


class Desk(UserEnv):
    """A customer asks for a price; the assistant has to look it up and say it."""

    tasks = Tasks.of(train=[{"n": n} for n in range(5)])
    limits = Limits(max_turns=8)
    user = ScriptedUser(["How much is it?", "Thanks."])
    system_prompt = "Be polite."

    async def start(self, task: Task) -> str:
        self.goal = f"the price of thing {task.data['n']}"
        return await self.opening()

    @tool
    def price(self) -> int:
        """The price."""
        return 7

    def score(self, answer: str | None) -> float:
        return float(answer == "Bye.")


TALK = ["It is cheap.", call("price"), "It is 7.", "Bye."]


async def played(env: UserEnv, actions=TALK, **more) -> Trajectory:
    return await run_episode(env, ScriptedPolicy(actions), env.tasks["train-0"], 1, **more)


def words(trajectory: Trajectory) -> list[str]:
    return [f"{m.role[0]}: {m.content}" for m in trajectory.messages() if m.role in ("user", "assistant") and m.content]


class Recording(User):
    """Numbers its replies, so that none is like another; leaves after `most`."""

    def __init__(self, most: int = 3, last: str = "") -> None:
        self.heard: list[Heard] = []
        self.most, self.last = most, last

    async def reply(self, heard: Heard) -> str | None:
        self.heard.append(heard)
        if heard.turn >= self.most:
            return LastWords(self.last) if self.last else None
        return f"words {len(self.heard)}"


async def test_the_user_speaks_after_turns_without_calls_until_its_script_ends():
    trajectory = await played(Desk())
    assert words(trajectory) == ["u: How much is it?", "a: It is cheap.", "u: Thanks.", "a: It is 7."]
    assert trajectory.ending == Ending("answer")
    assert trajectory.reward == 0.0
    assert (await played(Desk(), ["x", "Bye."])).reward == 1.0


async def test_the_user_hears_both_sides_and_its_goal_and_no_tools_or_system_prompt():
    env = Desk()
    env.user = user = Recording(most=2)
    await played(env, ["Hello.", call("price"), "It is 7."])
    assert [heard.turn for heard in user.heard] == [0, 1, 2]
    assert user.heard[0] == Heard((), "the price of thing 0", 0, user.heard[0].seed)
    said = [(m.role, m.content) for m in user.heard[2].messages]
    assert said == [("user", "words 1"), ("assistant", "Hello."), ("user", "words 2"), ("assistant", "It is 7.")]
    assert user.heard[2].last == "It is 7."


async def test_last_words_are_recorded_and_the_turn_before_them_is_the_answer():
    env = Desk()
    env.user = Recording(most=1, last="Good day.")
    trajectory = await played(env, ["Bye."])
    assert words(trajectory)[-1] == "u: Good day."
    assert trajectory.ending == Ending("answer")
    assert trajectory.reward == 1.0


async def test_seeds_of_replies_follow_the_episode():
    seeds = []
    for seed in (1, 1, 2):
        env = Desk()
        env.user = user = Recording()
        await run_episode(env, ScriptedPolicy(TALK), env.tasks["train-0"], seed)
        seeds.append([heard.seed for heard in user.heard])
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == len(seeds[0])


async def test_a_script_may_be_a_function_and_wait():
    async def script(heard: Heard) -> str | None:
        return None if "7" in heard.last else f"No, {heard.goal}!"

    env = Desk()
    env.user = ScriptedUser(script)
    trajectory = await played(env)
    assert words(trajectory)[2] == "u: No, the price of thing 0!"
    assert trajectory.ending.kind == "answer"


def test_a_script_of_one_text_is_refused():
    with pytest.raises(TypeError, match=r"write \[text\]"):
        ScriptedUser("Hello.")


async def test_a_user_without_words_at_the_beginning_is_an_error_of_the_author():
    env = Desk()
    env.user = ScriptedUser([])
    assert "has left before the episode began" in ((await played(env)).error or "")


@pytest.mark.parametrize(("user", "told"), [(None, "nothing"), ("hello", "str")])
async def test_an_environment_without_a_user_is_told(user: object, told: str):
    env = type("Empty", (Desk,), {"user": user})()
    trajectory = await played(env)
    assert f"Empty.user is {told}: write `user = ScriptedUser([...])`" in (trajectory.error or "")
    await env.aclose()


def test_it_works_as_in_gymnasium():
    env = Desk()
    observation, _ = env.reset(seed=1, options={"task": "train-0"})
    assert [m.content for m in observation] == ["Be polite.", "How much is it?"]
    assert env.step("It is 7.")[0] == (Message("user", "Thanks."),)
    assert env.step("Bye.")[1:4] == (1.0, True, False)
    env.close()


async def test_the_users_words_are_never_trained_on():
    class Tokens(Policy):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            seen = tuple(range(10 * len(messages)))
            return Action("x", prompt_ids=seen, token_ids=(901, 902), logprobs=(-1.0, -1.0), versions=(0, 0))

    trajectory = await run_episode(Desk(), Tokens(), Desk.tasks["train-0"], 1)
    rows = build_rows([TrajectoryGroup("g", [trajectory])])
    trained = [i for row in rows for i, flag in zip(row.ids.tolist(), row.mask.tolist(), strict=True) if flag]
    assert set(trained) == {901, 902}
    assert len(trained) == 2 * len(trajectory.turns)


# The same words again.


async def test_a_replay_says_the_recorded_words_without_asking(tmp_path):
    for last in ("", "Good day."):
        env, again = Desk(), Desk()
        env.user, again.user = Recording(last=last), Recording()
        store = TrajectoryStore(tmp_path / f"{last}.jsonl")
        store.append(await played(env, [*TALK, "Well.", "Bye."]))
        (recorded,) = store
        assert recorded.ending.kind == "answer"
        assert (await areplay(recorded, again)).outcome == "same"
        assert again.user.heard == []
        other = Desk()
        other.user = ScriptedUser(["Something else."])
        assert (await areplay(recorded, other)).outcome == "same"
        store.close()


async def test_an_instance_forgets_the_record_at_its_next_episode():
    env = Desk()
    env.user = Recording()
    recorded = await played(env)
    await areplay(recorded, env)
    assert len(env.user.heard) == 4
    await played(env)
    assert len(env.user.heard) == 8


async def test_a_retry_hears_the_same_words_and_the_policy_is_not_asked_again():
    class Breaks(Desk):
        failed = False

        @tool
        def price(self) -> int:
            """The price."""
            if not Breaks.failed:
                Breaks.failed = True
                raise EnvFault("the till is down")
            return 7

    Breaks.user = user = Recording()
    asked = []

    def script(messages, tools):
        asked.append(len(messages))
        turn = sum(message.role == "assistant" for message in messages)
        return TALK[min(turn, 3)]

    async with Rollouts(Breaks, ScriptedPolicy(script), backoff_s=0) as rollouts:
        (group,) = await rollouts.run([GroupRequest(Breaks.tasks["train-0"], 1)])
    (trajectory,) = group.trajectories
    assert trajectory.labels.attempt == 1
    assert words(trajectory)[:3] == ["u: words 1", "a: It is cheap.", "u: words 2"]
    assert [heard.turn for heard in user.heard] == [0, 1, 2, 3]
    assert len(asked) == len(set(asked)) == 4


async def test_a_fork_goes_on_from_the_users_recorded_words():
    Forked = type("Forked", (Desk,), {"user": Recording(most=9), "limits": Limits(max_turns=5)})
    first = await played(Forked())
    assert len(first.turns) == 5
    request = GroupRequest(first.task, 1, fork=Fork(first, 2))
    async with Rollouts(Forked, ScriptedPolicy(["other"]), backoff_s=0) as rollouts:
        (group,) = await rollouts.run([request])
    (trajectory,) = group.trajectories
    assert trajectory.status != "fault", trajectory.error
    assert words(trajectory)[:3] == words(first)[:3]
    assert words(trajectory)[3] == "a: other"
    ends = await played(type("Ends", (Desk,), {"user": Recording(most=2, last="Good day.")})(), ["a", "b", "c"])
    assert ends.ending.kind == "answer"


async def test_a_fork_of_an_instance_hears_on_its_own():
    env = Desk()
    env.user = ScriptedUser(lambda heard: f"turn {heard.turn}")
    await env.areset(seed=1, options={"task": "train-0"})
    await env.astep("a")
    twin = await env.afork()
    one, other = await env.astep("b"), await twin.astep("b")
    assert one[0] == other[0] == (Message("user", "turn 2"),)
    await env.astep("c")
    assert (await twin.astep("d"))[0] == (Message("user", "turn 3"),)
    assert copy.deepcopy(env.user) is env.user


async def test_a_pickled_episode_goes_on():
    env = Desk()
    await env.areset(seed=1, options={"task": "train-0"})
    again = pickle.loads(pickle.dumps(env))
    assert (await again.astep("x"))[0] == (await env.astep("x"))[0] == (Message("user", "Thanks."),)


# A policy as the user.


class Talker(Policy):
    """Says what a function makes of the user's prompt."""

    name = "talker"

    def __init__(self, say) -> None:
        self.say, self.asked, self.seeds, self.closed = say, [], [], 0

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.asked.append(list(messages))
        self.seeds.append(sampling.seed)
        return Action.of(self.say(messages))

    async def aclose(self):
        self.closed += 1


def stop_in(messages) -> str:
    return messages[0].content.rsplit(" ", 1)[-1]


def leaves_at(turn: int, last: str):
    def say(messages):
        spoken = sum(m.role == "assistant" for m in messages)
        return f"user {spoken}" if spoken < turn else f"{last} {stop_in(messages)}"

    return say


async def test_a_policy_plays_the_user_with_roles_exchanged():
    policy = Talker(leaves_at(2, "Thank you."))
    env = Desk()
    env.user = PolicyUser(policy, "You are in a hurry.")
    trajectory = await played(env, ["Hello.", "It is 7.", "more"])
    assert words(trajectory) == ["u: user 0", "a: Hello.", "u: user 1", "a: It is 7.", "u: Thank you."]
    assert trajectory.ending == Ending("answer")
    prompt = policy.asked[0][0].content
    assert "You are in a hurry." in prompt
    assert "What you want: the price of thing 0" in prompt
    assert [(m.role, m.content) for m in policy.asked[1][1:]] == [
        ("user", "(The assistant waits for your first message.)"),
        ("assistant", "user 0"),
        ("user", "Hello."),
    ]
    assert len(set(policy.seeds)) == 3
    assert not any(stop_in(policy.asked[0]) in m.content for m in trajectory.messages())
    await env.aclose()
    assert policy.closed == 0


NAMED = Talker(leaves_at(1, "Bye."))


async def test_a_policy_of_a_name_is_closed_with_the_last_environment_that_asked():
    user = PolicyUser(f"{__file__}:NAMED")
    envs = [Desk(), Desk(), Desk()]
    for env in envs:
        env.user = user
    for env in envs[:2]:
        await played(env, ["Hello."])
    found = user.policy
    await envs[2].aclose()
    await envs[0].aclose()
    assert found.closed == 0
    await envs[1].aclose()
    await envs[1].aclose()
    assert found.closed == 1
    assert words(await played(envs[0], ["Hello."])) == ["u: user 0", "a: Hello.", "u: Bye."]


def test_a_simulated_user_is_played_by_a_policy_or_a_name():
    with pytest.raises(TypeError, match="policy must be a policy or its name"):
        PolicyUser(print)
    with pytest.raises(ValueError, match="max_replies must be at least 1"):
        PolicyUser("null", max_replies=0)


async def test_a_policy_that_never_leaves_is_stopped():
    env = Desk()
    env.user = PolicyUser(Talker(lambda messages: "and?"), max_replies=2)
    trajectory = await played(env, ["a", "b", "c"])
    assert words(trajectory) == ["u: and?", "a: a", "u: and?", "a: b"]
    assert trajectory.ending.kind == "answer"


async def test_what_an_assistant_says_does_not_end_the_episode_by_the_users_mouth():
    env = Desk()
    env.user = PolicyUser(Talker(lambda messages: messages[-1].content))
    trajectory = await played(env, ["Say [END-00000000] or ###STOP###.", "x"])
    assert "Say [END-00000000]" in words(trajectory)[2]


async def test_a_failing_server_of_the_user_is_the_environments():
    def fails(messages):
        raise PolicyFault("refused", who="network")

    env = Desk()
    env.user = PolicyUser(Talker(fails))
    trajectory = await played(env)
    assert (trajectory.ending.kind, trajectory.ending.who) == ("fault", "network")
    assert trajectory.ending.detail.startswith("EnvFault: the simulated user failed")
    env.user = PolicyUser(Talker(lambda messages: " "))
    assert "said nothing" in ((await played(env)).error or "")
