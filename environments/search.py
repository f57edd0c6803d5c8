"""Questions that need several documents of a small world, answered by searching and reading.

Owns the worlds and the questions. Training and held-out questions come from different worlds that share names but
not facts, so memorized answers do not help. The demonstrator `hasty` follows two relations at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.tools.search import Document, SearchIndex
from agentrl.trajectory import Task

FIRST = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kai", "Lea")
LAST = ("Abel", "Bond", "Cole", "Dorn", "Eder", "Falk", "Gold", "Holt", "Imhof", "Jung", "Kern", "Lang")
FIRMS = ("Alto", "Bravo", "Corex", "Delta", "Enso", "Fluxo", "Gamma", "Helio", "Inova", "Juno", "Kappa", "Lumo")
CITIES = ("Arna", "Brix", "Calm", "Dole", "Elne", "Fano", "Gera", "Husum", "Ivrea", "Jena", "Kiel", "Lodi")
RIVERS = ("Aare", "Bode", "Cher", "Drau", "Ems", "Fulda", "Gail", "Havel", "Isar", "Jagst", "Kocher", "Lech")
GOODS = ("boats", "clocks", "drums", "glass", "kites", "lamps", "maps", "ovens", "pianos", "ropes", "salt", "toys")
PEOPLE_PER_WORLD = 36
TRAIN_WORLDS = tuple(range(32))
EVAL_WORLDS = (100, 101)
TRAIN_TASKS, EVAL_TASKS = 16_000, 200
HASTY_HOPS = 2
_MOST_IDS = 10**6
DEFAULT_HOPS = (2, 3)
# Kind of document -> relation that it tells -> kind of what the relation leads to.
RELATIONS: dict[str, dict[str, str]] = {
    "person": {"firm": "firm", "home": "city", "friend": "person"},
    "firm": {"head": "person", "seat": "city", "product": "word"},
    "city": {"mayor": "person", "river": "word"},
}


@dataclass(frozen=True)
class World:
    """The facts of a world: `facts[name][relation]` is a name or a word, `kinds[name]` a kind of document."""

    facts: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, str]
    ids: Mapping[str, str]
    index: SearchIndex

    def follow(self, start: str, path: Sequence[str]) -> list[str]:
        """The names along a path of relations, from the start to the answer."""
        names = [start]
        for relation in path:
            names.append(self.facts[names[-1]][relation])
        return names


@lru_cache(maxsize=64)
def world(seed: int) -> World:
    """The world of a seed; built once and shared by all environments, because it never changes."""
    rng = np.random.default_rng([9_001, seed])
    names = {
        "person": [f"{FIRST[i // 12]} {LAST[i % 12]}" for i in rng.permutation(144)[:PEOPLE_PER_WORLD]],
        "firm": list(FIRMS),
        "city": list(CITIES),
    }
    kinds = {name: kind for kind, members in names.items() for name in members}
    facts = {name: _facts(rng, name, kind, names) for name, kind in kinds.items()}
    ids = dict(zip(kinds, map(str, rng.permutation(np.arange(10, 10 + len(kinds)))), strict=True))
    documents = [Document(ids[name], name, _text(facts[name])) for name in kinds]
    return World(facts, kinds, ids, SearchIndex(documents))


def _facts(rng: np.random.Generator, name: str, kind: str, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    words = {"river": RIVERS, "product": GOODS}
    facts = {}
    for relation, told in RELATIONS[kind].items():
        choices = [other for other in words.get(relation) or names[told] if other != name]
        facts[relation] = str(rng.choice(choices))
    return facts


def _text(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{relation} {value}" for relation, value in facts.items())


def questions(seed: int, hops: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every question of a world that follows one of `hops` numbers of relations and meets no name twice."""
    here = world(seed)
    for start, kind in here.kinds.items():
        for path in _paths(kind, max(hops)):
            names = here.follow(start, path)
            if len(path) in hops and len(set(names)) == len(names) and names[-1] not in start:
                yield {"world": seed, "start": start, "path": list(path)}


def _paths(kind: str, longest: int) -> Iterator[tuple[str, ...]]:
    for relation, told in RELATIONS.get(kind, {}).items():
        yield (relation,)
        if longest > 1:
            yield from ((relation, *rest) for rest in _paths(told, longest - 1))


@lru_cache(maxsize=8)
def _tasks(hops: tuple[int, ...]) -> Tasks:
    return Tasks(lambda: {"train": _split("train", hops), "eval": _split("eval", hops)})


def _split(name: str, hops: tuple[int, ...]) -> list[Task]:
    """Questions of the split's worlds in a random order, equally many for each number of hops."""
    worlds, size = (TRAIN_WORLDS, TRAIN_TASKS) if name == "train" else (EVAL_WORLDS, EVAL_TASKS)
    rng = np.random.default_rng([9_002, len(name), *hops])
    found = [question for seed in worlds for question in questions(seed, hops)]
    chosen: list[dict[str, Any]] = []
    for count in hops:
        same = [question for question in found if len(question["path"]) == count]
        chosen += [same[i] for i in rng.permutation(len(same))[: size // len(hops)]]
    return [Task(f"{name}-{i}", name, chosen[j]) for i, j in enumerate(rng.permutation(len(chosen)))]


@register("agentrl/Search-v0", max_turns=12)
class Search(ToolEnv):
    """Answer a question that follows several relations, by searching and reading documents.

    Reward: 1 if the answer is the name asked for, in upper or lower case; otherwise 0.

    Args:
        hops: how many relations a question may follow, as numbers from 1 to 4.
    """

    tasks = _tasks(DEFAULT_HOPS)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, hops: Sequence[int] = DEFAULT_HOPS, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        wanted = tuple(sorted(set(hops)))
        if not wanted or not set(wanted) <= {1, 2, 3, 4}:
            raise ValueError(f"hops must be numbers from 1 to 4, got {tuple(hops)}")
        self.tasks = _tasks(wanted)

    async def start(self, task: Task) -> str:
        self.found: dict[str, None] = {}
        self.seen: dict[str, None] = {}
        chain = " of the ".join(reversed(task.data["path"]))
        return f"Name the {chain} of {task.data['start']}."

    @tool
    def find(self, q: str) -> str:
        """Search documents: ids and titles.

        Args:
            q: a few words.
        """
        hits = self._world.index.search(q, 3)
        if not hits:
            raise ToolError("nothing found")
        self.found.update(dict.fromkeys(hit.id for hit in hits))
        return "\n".join(f"{hit.id} {hit.title}" for hit in hits)

    @tool
    def read(self, id: int) -> str:
        """Read a document.

        Args:
            id: as find gives it.
        """
        if not 0 <= id < _MOST_IDS:  # a longer number may be too long for Python to write
            raise ToolError("there is no document with this number; use an id that find gave")
        document = self._world.index.read(str(id))
        self.seen[document.id] = None
        return str(document.text)

    async def score(self, answer: str | None) -> dict[str, float]:
        return {"correct": float(_plain(answer or "") == _plain(self._chain[-1]))}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Find and read each document on the path, then answer."""
        return self._demonstrate(self._chain)

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: answer after two relations, however many the question has."""
        return self._demonstrate(self._chain[: HASTY_HOPS + 1])

    def _demonstrate(self, chain: Sequence[str]) -> Action:
        for name in chain[:-1]:
            doc_id = self._world.ids[name]
            if doc_id not in self.seen:
                return call("read", id=int(doc_id)) if doc_id in self.found else call("find", q=name)
        return Action(text=chain[-1])

    def state_key(self) -> str:
        return f"{self.task.id}|{','.join(sorted(self.found))}|{','.join(sorted(self.seen))}"

    @property
    def _world(self) -> World:
        return world(self.task.data["world"])

    @property
    def _chain(self) -> list[str]:
        return self._world.follow(self.task.data["start"], self.task.data["path"])


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip().removesuffix(".").split())
