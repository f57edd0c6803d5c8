"""An outline gives the score of its episode, and holds none of its texts."""

from __future__ import annotations

import tracemalloc

from agentrl.bench.measures.outline import Outlines
from agentrl.bench.result import score_of
from agentrl.messages import Action, Message, Served, ToolCall
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

LONG = "a long text, " * 5_000


def long_turn(number: int, **fields: object) -> Turn:
    read = ToolCall("read", {"text": LONG})
    unread = ToolCall("", {}, error=LONG)
    action = Action(
        LONG,
        (read, unread) if number % 2 else (read,),
        LONG,
        prompt_ids=tuple(range(1_000)),
        token_ids=(1,) * number,
        usage={"prompt_tokens": 10, "completion_tokens": number} if number % 3 else None,
        served=Served("model", 0.1 * number) if number % 2 else None,
    )
    given = {"reward": 0.1 * number, "reward_components": {"parts": 0.3 * number}, "policy_s": 0.7, "env_s": 0.2}
    given["next_observation"] = (Message("tool", LONG),)
    return Turn((Message("user", LONG),), action, **{**given, **fields})


def episodes() -> list[Trajectory]:
    endings = [
        Ending("answer"),
        Ending("limit", "max_turns"),
        Ending("error", "too long"),
        Ending("fault", "EnvFault: gone", "server"),
        Ending("fault", "PolicyFault: gone", "server"),
        Ending("environment"),
    ]
    found = []
    for number in range(48):
        turns = [long_turn(n) for n in range(1 + number % 5)]
        if number % 4 == 3:
            turns.append(long_turn(5, next_observation=(), env_s=0.0))
        found.append(
            Trajectory(
                EnvRef("env", {"size": 3}),
                Task(f"task {number // 4}", "eval", {"text": LONG, **({"family": "x"} if number % 8 < 4 else {})}),
                number,
                turns if number != 17 else [],
                endings[number % len(endings)],
                group_id=f"bench/task {number // 4}#{number % 4}",
                labels=Labels("bench", attempt=number % 2),
                info={"text": LONG, **({"success": number % 3 == 0} if number % 2 else {})}
                | ({"tool_stats": {"read": {"calls": 2, "errors": 1}}} if number % 5 else {}),
            )
        )
    return found


def test_the_score_of_outlines_is_that_of_the_episodes() -> None:
    whole = episodes()
    outlines = Outlines()
    bare = [outlines.of(episode) for episode in whole]
    given = {"trials": 4, "n_planned": 48}
    assert score_of(bare, **given).to_json() == score_of(whole, **given).to_json()
    assert [len(one.turns) for one in bare] == [len(one.turns) for one in whole]
    assert [one.success for one in bare] == [one.success for one in whole]


def test_an_outline_is_small_whatever_was_said() -> None:
    outlines = Outlines()
    sizes = [len(repr(outlines.of(episode))) for episode in episodes()]
    assert max(sizes) < 5_000 < len(LONG)


def test_many_outlines_take_little_memory_each_also_where_no_two_have_a_number_in_common() -> None:
    count = 2_000
    tracemalloc.start()
    try:
        outlines = Outlines()
        kept = [outlines.of(_different(number)) for number in range(count)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / count < 500
    assert len({one.reward for one in kept}) == count


def _different(number: int) -> Trajectory:
    usage = {"prompt_tokens": 1_000 + number, "completion_tokens": 500 + number}
    turns = [Turn((), Action(usage=usage), reward=0.1 * number, policy_s=0.01 * number, env_s=0.02 * number)] * 4
    return Trajectory(EnvRef("env"), Task(f"task-{number}", "eval", {}), number, turns, Ending("answer"))
