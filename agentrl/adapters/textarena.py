"""TextArena: games for one player in text (`pip install textarena`). Games of several players are left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

from agentrl.adapters.suite import Seeded, from_package, pass_on_host_fault, seeded_tasks
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault, did_you_mean
from agentrl.messages import Action, Message
from agentrl.seeds import GlobalGenerators
from agentrl.trajectory import Task

INSTALL = "pip install textarena"
ALL = "solved"
_HELD_OUT = 1_000_000


def _opened(game: str, seed: int) -> Any:
    """A game at its start, the same each time: games draw from their seed, or from the process's generators."""
    with GlobalGenerators(seed).inside():
        made = from_package("textarena", INSTALL).make(game)
        made.reset(num_players=1, seed=seed)
    return made


@lru_cache(maxsize=32)
def _tasks(games: tuple[str, ...], train: int, held_out: int) -> Tasks:
    return seeded_tasks([Seeded(partial(_seeded, game)) for game in games], train, held_out)


def _seeded(game: str, split: str, index: int) -> tuple[str, dict[str, Any], str]:
    seed = (_HELD_OUT if split == "eval" else 0) + index
    return f"{game}-{seed}", {"game": game, "seed": seed}, repr(_opened(game, seed).state.game_state)


@register("suites/TextArena-v0", max_turns=60)
class TextArena(ToolEnv):
    """A game of TextArena for one player; each answer is one move, such as `[up]` or `[2 5 6 4]`.

    Reward: the game's own, 0 where it is negative; success is a reward of 1.

    Args:
        game: an id of the package, such as `Mastermind-v0`, or `solved` for those with a solution here.
        train: games of each kind in the split `train`.
        held_out: games of each kind in the split `eval`. No game starts as one of `train` does; a kind that has fewer
            different games keeps a fifth of them here, and Tower of Hanoi, which has one, has it here.
    """

    third_party = ("textarena",)
    known_flaws = (
        "Wordle, Hangman, WordLadder and WordSearch fetch word lists of NLTK when they start, and need the network.",
        "TwentyQuestions asks a model of OpenRouter.",
        "GuessTheNumber raises at its limit of turns if it cannot read the last move; here the game is lost then.",
    )
    own_random = True  # games draw from the process's generator
    score_truncated = True
    not_state = ("tasks",)

    def __init__(
        self, *, game: str = ALL, train: int = 100, held_out: int = 10, render_mode: str | None = None
    ) -> None:
        super().__init__(render_mode=render_mode)
        from_package("textarena.envs", INSTALL)
        known = sorted(from_package("textarena.envs.registration", INSTALL).ENV_REGISTRY)
        if game != ALL and game not in known:
            raise ValueError(f"TextArena has no game {game!r}.{did_you_mean(game, [*known, ALL])}")
        self.tasks = _tasks(tuple(SOLVERS) if game == ALL else (game,), train, held_out)

    def start(self, task: Task) -> str:
        self.game = _opened(task.data["game"], task.data["seed"])
        return self._seen()

    def respond(self, text: str) -> str | None:
        try:
            over, _ = self.game.step(text)
        except Exception as error:  # the game's own code, on what the player said: the move is not accepted
            pass_on_host_fault(error)
            self.add_info(game_raised=f"{type(error).__name__}: {error}"[:200])
            over = True
        if over:
            self.terminate()
            return "The game is over."
        return self._seen()

    def _seen(self) -> str:
        _, seen = self.game.get_observation()
        return seen if isinstance(seen, str) else "\n".join(str(part[1]) for part in seen)

    def score(self, answer: str | None) -> float:
        rewards = self.game.state.rewards or {}
        return max(float(rewards.get(0, 0.0)), 0.0)

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The next move of a solution, from the state of the game."""
        solve = SOLVERS.get(self.task.data["game"])
        if solve is None:
            raise EnvFault(f"there is no solution for {self.task.data['game']} here, nor in TextArena", who="author")
        return Action(f"[{solve(self.game.state.game_state)}]")


def _moved_disk(state: Mapping[str, Any]) -> str:
    """The next move of a shortest way to bring all disks to the last tower."""
    towers = state["towers"]
    start = tuple(tuple(towers[name]) for name in "ABC")
    goal = ((), (), tuple(sorted((disk for tower in start for disk in tower), reverse=True)))
    queue, first = deque([start]), {start: ""}
    while queue:
        here = queue.popleft()
        if here == goal:
            return first[here]
        for a, b in product(range(3), repeat=2):
            if a != b and here[a] and (not here[b] or here[b][-1] > here[a][-1]):
                there = list(here)
                there[a], there[b] = here[a][:-1], (*here[b], here[a][-1])
                if tuple(there) not in first:
                    first[tuple(there)] = first[here] or f"{'ABC'[a]} {'ABC'[b]}"
                    queue.append(tuple(there))
    return ""


def _walked(state: Mapping[str, Any]) -> str:
    """The first step of a shortest way to the goal."""
    grid, start, goal = state["grid"], tuple(state["player_pos"]), tuple(state["goal_pos"])
    queue, first = deque([start]), {start: ""}
    moves = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    while queue:
        row, column = queue.popleft()
        if (row, column) == goal:
            return first[goal]
        for name, (down, right) in moves.items():
            there = (row + down, column + right)
            inside = 0 <= there[0] < len(grid) and 0 <= there[1] < len(grid[0])
            if inside and grid[there[0]][there[1]] != "H" and there not in first:
                first[there] = first[(row, column)] or name
                queue.append(there)
    return ""


def _lights_out(state: Mapping[str, Any]) -> str:
    """A light of a shortest solution: the first row is tried in every way, the others follow from the row above."""
    size, best = len(state["grid"]), None
    for row in product((False, True), repeat=size):
        grid = [list(line) for line in state["grid"]]
        pressed: list[tuple[int, int]] = []
        wanted = list(row)
        for y in range(size):
            for x in (x for x in range(size) if wanted[x]):
                pressed.append((y, x))
                for v, u in ((y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= v < size and 0 <= u < size:
                        grid[v][u] = not grid[v][u]
            wanted = grid[y]
        if not any(map(any, grid)) and (best is None or len(pressed) < len(best)):
            best = pressed
    return "" if not best else f"{best[0][0]} {best[0][1]}"


SOLVERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "GuessTheNumber-v0": lambda state: str(state["game_number"]),
    "Mastermind-v0": lambda state: " ".join(map(str, state["secret_code"])),
    "TowerOfHanoi-v0": _moved_disk,
    "FrozenLake-v0": _walked,
    "LightsOut-v0": _lights_out,
}
"""Games with a solution here."""
