"""What an audit found: flaws with their evidence, and what the panel earned. Plays nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentrl.trajectory import EnvRef, Trajectory

Severity = Literal["error", "warning", "advice"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "advice")
_MOST_SHOWN = 3
_LONGEST_LINE = 160


@dataclass(frozen=True, slots=True)
class Evidence:
    """An episode, or a place in the data, that shows a flaw.

    Attributes:
        task: id of the task.
        seen: one sentence.
        messages: of the episode, in OpenAI's form; empty where no episode was needed.
        reward, success: what the episode got.
    """

    task: str
    seen: str
    messages: Sequence[Mapping[str, Any]] = ()
    reward: float | None = None
    success: bool | None = None

    @classmethod
    def of(cls, episode: Trajectory, seen: str) -> Evidence:
        """The evidence that an episode is."""
        messages = [message.to_openai() for message in episode.messages()]
        return cls(episode.task.id, seen, messages, episode.reward, episode.success)


@dataclass(frozen=True, slots=True)
class Flaw:
    """One reason why a score may not mean what it seems to.

    Attributes:
        kind: a stable name, for example `pays-for-silence`.
        severity: an `error` makes scores worthless or lets them be had for nothing; a `warning` should be looked at;
            `advice` says what could not be looked at.
        problem: what was seen.
        fix: what to change.
        tasks: ids of the tasks that show it.
        tried: tasks that were tried.
        evidence: some of them, with what was seen.
    """

    kind: str
    severity: Severity
    problem: str
    fix: str
    tasks: tuple[str, ...] = ()
    tried: int = 0
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Earned:
    """What a member of the panel got on the tasks.

    Attributes:
        success: share of tasks on which it succeeded.
        reward: mean over tasks.
    """

    success: float
    reward: float


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What is wrong with a benchmark, worst first.

    Attributes:
        env: that was audited.
        split: whose tasks were played.
        num_tasks: that were played.
        flaws: what was found; empty if nothing was.
        checks: names of the checks that ran.
        panel: what each member of the panel earned, by its name.
    """

    env: EnvRef
    split: str
    num_tasks: int
    flaws: tuple[Flaw, ...]
    checks: tuple[str, ...]
    panel: Mapping[str, Earned] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no flaw is an error."""
        return not any(flaw.severity == "error" for flaw in self.flaws)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of the flaws that are no mere advice."""
        return frozenset(flaw.kind for flaw in self.flaws if flaw.severity != "advice")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "env": asdict(self.env),
            "split": self.split,
            "num_tasks": self.num_tasks,
            "ok": self.ok,
            "checks": list(self.checks),
            "flaws": [asdict(flaw) for flaw in self.flaws],
            "panel": {name: asdict(earned) for name, earned in self.panel.items()},
        }

    def to_text(self) -> str:
        """The report for a person."""
        lines = [f"{self.env}, split {self.split}, {self.num_tasks} tasks: {self._verdict()}"]
        for flaw in self.flaws:
            lines += ["", f"{flaw.severity} [{flaw.kind}] {flaw.problem}", f"  fix: {flaw.fix}", *_tasks_line(flaw)]
            lines += [f"  {line}" for item in flaw.evidence[:1] for line in _transcript(item)]
        return "\n".join([*lines, *self._panel_lines()])

    def _panel_lines(self) -> list[str]:
        """Who earned something; the others in one line."""
        paid = {name: e for name, e in self.panel.items() if e.success > 0 or e.reward > 0}
        width = max(map(len, paid), default=0)
        lines = [f"  {name:<{width}}  {e.success:6.1%}  {e.reward:7.3f}" for name, e in paid.items()]
        rest = len(self.panel) - len(paid)
        return ["", "What the panel earned (share of tasks solved, mean reward):", *lines, f"  {rest} members: nothing"]

    def _verdict(self) -> str:
        counts = {s: sum(flaw.severity == s for flaw in self.flaws) for s in _ORDER}
        said = [f"{n} {s}{'s' if n > 1 and s != 'advice' else ''}" for s, n in counts.items() if n]
        found = ", ".join(said) or "nothing found"
        return f"{'ok' if self.ok else 'not sound'} ({len(self.checks)} checks; {found})"


def _tasks_line(flaw: Flaw) -> list[str]:
    if not flaw.tasks:
        return []
    more = f" and {len(flaw.tasks) - 8} more" if len(flaw.tasks) > 8 else ""
    return [f"  tasks ({len(flaw.tasks)} of {flaw.tried}): {', '.join(flaw.tasks[:8])}{more}"]


def _transcript(item: Evidence) -> list[str]:
    """The evidence, with the last messages of its episode."""
    lines = [f"seen: task {item.task}: {item.seen}"]
    for message in item.messages[-_MOST_SHOWN:]:
        calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in message.get("tool_calls") or ()]
        text = " ".join([str(message.get("content") or ""), *calls]).strip()
        lines.append(f"  {message['role']}: {_short(text)}")
    return lines


def _short(text: str) -> str:
    plain = " ".join(text.split()) or "(nothing)"
    return plain if len(plain) <= _LONGEST_LINE else plain[: _LONGEST_LINE - 3] + "..."


def worst_first(flaws: Sequence[Flaw]) -> tuple[Flaw, ...]:
    """Flaws ordered by severity, then by the number of tasks that show them."""
    return tuple(sorted(flaws, key=lambda flaw: (_ORDER.index(flaw.severity), -len(flaw.tasks))))
