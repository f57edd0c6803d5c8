"""Plays actions on TextArena and MiniWoB++ themselves, without our adapters, and writes down what came of them.

    python -m tests.adapters.goldens.record textarena|miniwob [--out FILE]

Run it where the package is installed (`benchmarks/suites.py NAME` makes such an environment). The actions are those of
our solutions as they are, without the last one, with the first one changed, and (games) a wrong one again and again.
`test_goldens.py` holds the adapters to the file; `test_installed_goldens.py` makes it anew where the package is
installed, and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl.adapters import miniwob
from agentrl.env.registry import make
from agentrl.messages import Action
from agentrl.seeds import GlobalGenerators

FOLDER = Path(__file__).parent
MOST_STEPS = 30


def actions_of(env: Any, task: Any, wrong: Callable[[Action], Action]) -> dict[str, list[Action]]:
    """What the solution of a task does, and corruptions of it that know nothing of each other."""
    env.reset(seed=0, options={"task": task})
    solved: list[Action] = []
    over = False
    while not over and len(solved) < MOST_STEPS:
        solved.append(env.oracle(()))
        _, _, terminated, truncated, _ = env.step(solved[-1])
        over = terminated or truncated
    other = wrong(solved[0])
    return {"solved": solved, "dropped": solved[:-1], "changed": [other, *solved[1:]], "repeated": [other] * MOST_STEPS}


def digest(seen: Any) -> str:
    """A short name of what a game shows."""
    text = seen if isinstance(seen, str) else "\n".join(str(part[1]) for part in seen)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def record_textarena() -> list[dict[str, Any]]:
    """The games by TextArena's own loop: its observations, and the rewards that `close` gives."""
    import textarena as package

    env, found = make("agentrl.adapters.textarena:TextArena", train=0, held_out=1), []
    for task in env.tasks.split("eval"):
        game, seed = task.data["game"], task.data["seed"]
        wrong = Action(
            {"TowerOfHanoi-v0": "[C A]", "FrozenLake-v0": "[left]", "LightsOut-v0": "[0 0]"}.get(game, "[1 1]")
        )
        for how, actions in actions_of(env, task, lambda _, wrong=wrong: wrong).items():
            steps, reward = _played(package, game, seed, [action.text for action in actions])
            found.append({"task": task.id, "how": how, "game": game, "steps": steps, "reward": reward})
    return found


def _played(package: Any, game: str, seed: int, moves: list[str]) -> tuple[list[dict[str, Any]], float | None]:
    """The steps of a game, and the reward of its player; None where the game is not over."""
    with GlobalGenerators(seed).inside():
        played = package.make(game)
        played.reset(num_players=1, seed=seed)
        steps = [{"seen": digest(played.get_observation()[1])}]
        for move in moves:
            over, _ = played.step(move)
            steps.append({"did": move, "over": bool(over), "seen": "" if over else digest(played.get_observation()[1])})
            if over:
                return steps, float(played.close()[0][0])
        return steps, None


def record_miniwob() -> list[dict[str, Any]]:
    """The pages by the package's own environment: what is seen, and its `raw_reward`."""
    import gymnasium
    import miniwob as package
    from miniwob.action import ActionTypes

    miniwob.Browser()  # names the browser for the package
    gymnasium.register_envs(package)
    env, found = make("agentrl.adapters.miniwob:MiniWoB", train=0, held_out=1), []
    for task in env.tasks.split("eval"):
        page, seed = task.data["page"], task.data["seed"]
        for how, actions in list(actions_of(env, task, _mistyped).items())[:-1]:
            own = gymnasium.make(f"miniwob/{page}-v1").unwrapped
            steps = [{"seen": miniwob._plain(own.reset(seed=seed)[0]), "over": False}]
            for action in actions:
                (call,) = action.tool_calls
                given = dict(call.arguments)
                kind = "CLICK_ELEMENT" if call.name == "click" else "FOCUS_ELEMENT_AND_TYPE_TEXT"
                ref, more = given.pop("element"), given
                seen, _, over, _, info = own.step(own.create_action(ActionTypes[kind], ref=ref, **more))
                plain = {} if over else miniwob._plain(seen)
                did = {"kind": kind, "element": ref, "more": more, "tool": call.name}
                reward = float(info.get("raw_reward") or 0.0)
                steps.append({"did": did, "over": bool(over), "seen": plain, "raw_reward": reward})
                if over:
                    break
            own.close()
            reward = steps[-1].get("raw_reward", 0.0)
            found.append({"task": task.id, "how": how, "page": page, "steps": steps, "reward": reward})
    env.close()
    return found


def _mistyped(action: Action) -> Action:
    """Another text, or a click on the element before: the page takes both."""
    (call,) = action.tool_calls
    given = dict(call.arguments)
    given |= {"text": f"{given['text']}x"} if "text" in given else {"element": max(1, given["element"] - 1)}
    return Action(tool_calls=(type(call)(call.name, given),))


RECORDERS = {"textarena": record_textarena, "miniwob": record_miniwob}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(RECORDERS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    path = given.out or FOLDER / f"{given.suite}.json"
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in RECORDERS[given.suite]())
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
