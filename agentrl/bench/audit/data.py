"""Checks of the tasks' data and first messages: copies between splits, answers given away, checks that are empty."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.bench.audit.golds import golds_of
from agentrl.bench.audit.playing import Subject
from agentrl.bench.audit.reach import shows, spy
from agentrl.bench.audit.report import Evidence, Flaw
from agentrl.messages import Message
from agentrl.trajectory import Task, Trajectory

_MOST_OPENED = 400
_MOST_EVIDENCE = 3
_PATH_LENGTH = 200
_FILLERS = frozenset(["a", "an", "the", "please", "could", "you", "can", "kindly", "now", "just", "would"])
_SHINGLE, _FEWEST_SHINGLES, _ALIKE, _COMMON = 5, 40, 0.8, 0.2
_CHECKS = re.compile(
    r"(?i)(?:.*_)?(?:checks?|tests?|assert(?:ion)?s?|criteria|rubrics?|requirements?|validators?|conditions?)(?:_\w+)?"
)


async def check_splits(subject: Subject) -> list[Flaw]:
    """No task of the split stands in another split as well, word for word or nearly so."""
    others = [task for tasks in subject.others.values() for task in tasks]
    if not others:
        return []
    mine = [_Question(*opened) for opened in await subject.opened(subject.tasks)]
    theirs = [_Question(*opened) for opened in await subject.opened(_spread(others, _MOST_OPENED))]
    pairs = [
        *_same_data(mine, theirs),
        *await _near_copies(subject, mine, theirs),
        *await _same_prompt(subject, mine, theirs),
    ]
    first = {one.task.id: (one, two) for one, two in reversed(pairs)}
    if not first:
        return []
    problem = f"{len(first)} of {len(mine)} tasks stand in another split too, in the same or nearly the same words"
    fix = "remove one of each pair; make splits by content, not by id"
    seen = [
        Evidence(task, f"nearly the same as {two.task.id} of split {two.task.split!r}: {one.shown} / {two.shown}")
        for task, (one, two) in list(first.items())[:_MOST_EVIDENCE]
    ]
    return [Flaw("splits-overlap", "error", problem, fix, tuple(first), len(mine), tuple(seen))]


def _spread(tasks: Sequence[Task], most: int) -> list[Task]:
    step = max(1, len(tasks) / most)
    return [tasks[int(i * step)] for i in range(min(most, len(tasks)))]


class _Question:
    """A task as an agent and its author see it: the first messages, and the data without what only names it."""

    def __init__(self, task: Task, messages: Sequence[Message], _: str) -> None:
        self.task = task
        self.prompt = "\n".join(message.content for message in messages if message.role != "system")
        data = {
            k: v for k, v in task.data.items() if not re.fullmatch(r"(?i)(?:.*_)?(?:id|uid|uuid|index|idx|name)", k)
        }
        self.data = json.dumps(data, sort_keys=True, default=repr)
        self.plain = (_plain(self.prompt), _plain(self.data))
        words = re.findall(r"\w+", f"{self.prompt} {self.data}".lower())
        self.numbers = re.findall(r"\d+", self.prompt)
        self.shingles = {tuple(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}

    @property
    def shown(self) -> str:
        text = " ".join(self.prompt.split())
        return repr(text if len(text) < 90 else text[:87] + "...")


Pair = tuple[_Question, _Question]


def _plain(text: str) -> str:
    """A text without case, blanks, fillers, and punctuation that is no operator."""
    words = re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[-+*/%=<>^]", text.lower())
    return " ".join(word for word in words if word not in _FILLERS)


def _same_data(mine: Sequence[_Question], theirs: Sequence[_Question]) -> Iterator[Pair]:
    """Pairs whose data are equal in plain form."""
    by_data = {q.plain[1]: q for q in theirs if q.plain[1]}
    for one in mine:
        if one.plain[1] in by_data:
            yield one, by_data[one.plain[1]]


async def _same_prompt(subject: Subject, mine: Sequence[_Question], theirs: Sequence[_Question]) -> list[Pair]:
    """Pairs whose prompts are equal in plain form, and which cannot be told apart by playing them with the same seed.

    Played are the oracle and a member that looks at everything. Without an oracle pairs count only where prompts tell
    tasks apart.
    """
    by_prompt = {q.plain[0]: q for q in theirs if q.plain[0]}
    pairs = [(one, by_prompt[one.plain[0]]) for one in mine if one.plain[0] in by_prompt]
    prompts = Counter(q.plain[0] for q in mine)
    if not pairs or not (subject.has_oracle or len(prompts) > 0.9 * len(mine)):
        return []
    tasks = list({q.task.id: q.task for pair in pairs for q in pair}.values())
    played = await subject.side_by_side([spy()] if subject.tools else [], tasks)
    return [(one, two) for one, two in pairs if played[one.task.id] == played[two.task.id]]


async def _near_copies(subject: Subject, mine: Sequence[_Question], theirs: Sequence[_Question]) -> list[Pair]:
    """Pairs of similar words and the same numbers, on which the oracle does the same.

    Questions of one pattern are similar, too, and are no copies.
    """
    pairs = [(one, two) for one, two in _similar(mine, theirs) if one.numbers == two.numbers]
    if not pairs or not subject.has_oracle:
        return pairs
    solutions = await subject.solutions(list({q.task.id: q.task for pair in pairs for q in pair}.values()))
    return [(one, two) for one, two in pairs if solutions[one.task.id] == solutions[two.task.id]]


def _similar(mine: Sequence[_Question], theirs: Sequence[_Question]) -> Iterator[Pair]:
    """Pairs of long tasks that share most runs of words which few tasks have."""
    everyone = [*mine, *theirs]
    often = Counter(shingle for q in everyone for shingle in q.shingles)
    rare = {shingle for shingle, count in often.items() if 1 < count <= max(2, _COMMON * len(everyone))}
    where: dict[Any, list[_Question]] = defaultdict(list)
    for q in theirs:
        for shingle in q.shingles & rare:
            where[shingle].append(q)
    common = {shingle for shingle, count in often.items() if count > max(2, _COMMON * len(everyone))}
    for one in mine:
        own = one.shingles - common
        near = Counter(q for shingle in own & rare for q in where[shingle])
        for two, shared in near.most_common(1):
            union = len(own | (two.shingles - common))
            if len(own) >= _FEWEST_SHINGLES and shared / union >= _ALIKE:
                yield one, two


async def check_prompt(subject: Subject) -> list[Flaw]:
    """Neither the first messages nor the tools name the answer as such."""
    golds = golds_of(subject)
    told = []
    for task, messages, tools in await subject.opened(subject.tasks):
        texts = {"the first messages": "\n".join(m.content for m in messages), "the tools": tools}
        told += [(task.id, where, g) for where, text in texts.items() for g in golds.get(task.id, ()) if shows(text, g)]
    if not told:
        return []
    problem = f"{told[0][1]} name the answer"
    fix = "keep the answer out of the prompt, the system message and the tools' descriptions and schemas"
    seen = tuple(Evidence(task, f"{where} name the answer {gold!r}") for task, where, gold in told[:_MOST_EVIDENCE])
    tasks = tuple(dict.fromkeys(task for task, _, _ in told))
    return [Flaw("answer-in-prompt", "error", problem, fix, tasks, len(subject.tasks), seen)]


async def check_reach(subject: Subject) -> list[Flaw]:
    """No tool shows the answer as such, nor a file that is named after it."""
    if not subject.tools:
        return []
    member, golds = spy(), golds_of(subject)
    episodes = (await subject.play([member]))[member.name]
    found = [(t, shown) for t in episodes if (shown := _shown(t, golds.get(t.task.id, ()))) is not None]
    if not found:
        return []
    problem = "a tool shows the answer, named as such"
    fix = "keep answers, tests and rewards outside of what tools can read: not in its files, variables or replies"
    seen = tuple(Evidence.of(t, shown) for t, shown in found[:_MOST_EVIDENCE])
    tasks = tuple(t.task.id for t, _ in found)
    return [Flaw("answer-in-reach", "error", problem, fix, tasks, len(episodes), seen)]


def _shown(episode: Trajectory, golds: Sequence[str]) -> str | None:
    """Where a reply shows an answer: by its own words, or because it was asked for by a name such as answer.txt."""
    for turn in episode.turns:
        for call, message in zip(turn.action.tool_calls, turn.next_observation, strict=False):
            asked = " ".join(str(value) for value in call.arguments.values())
            for gold in golds:
                if shows(message.content, gold) or (
                    len(asked) < _PATH_LENGTH and shows(f"{asked}\n{message.content}", gold)
                ):
                    return f"the answer {gold!r} stands in what {call.name}({asked[:40]}) replies"
    return None


async def check_empty(subject: Subject) -> list[Flaw]:
    """No task has an empty list of checks where others have some."""
    sizes: dict[str, dict[str, bool]] = defaultdict(dict)
    for task in subject.tasks:
        for path, filled in _check_fields(task.data, ""):
            sizes[path][task.id] = filled or sizes[path].get(task.id, False)
    flaws = []
    for path, holds in sizes.items():
        empty = tuple(task for task, has in holds.items() if not has)
        if empty:
            problem = (
                f"{len(empty)} of {len(holds)} tasks have nothing in {path!r}: a check of nothing passes everything"
            )
            fix = "give these tasks a check, or leave them out; count an empty list of checks as failed"
            seen = (Evidence(empty[0], f"its {path!r} is empty"),)
            severity = "error" if len(empty) < len(holds) else "warning"
            flaws.append(Flaw("empty-check", severity, problem, fix, empty, len(subject.tasks), seen))  # type: ignore[arg-type]
    return flaws


def _check_fields(data: Any, path: str) -> Iterator[tuple[str, bool]]:
    """Fields that are named as checks, and whether they hold any."""
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        if _CHECKS.fullmatch(str(key)) and (value is None or isinstance(value, (list, dict, str))):
            yield here, bool(value)
        yield from _check_fields(value, here)
