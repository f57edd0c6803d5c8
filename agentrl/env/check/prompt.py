"""Checks that the first messages do not contain the answer: no rule that only copies from them wins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing

from agentrl.env.check.player import Episode, Start, Subject, begin, oracle, say
from agentrl.env.check.report import Finding

_MOST_TASKS = 16
_ENOUGH_TASKS = 4
_NEAR_ENDS = 10
_KINDS = {
    "word": re.compile(r"[A-Za-z0-9_.+-]*[A-Za-z0-9_]"),
    "number": re.compile(r"-?\d+(?:\.\d+)?"),
    "quoted text": re.compile(r"[\"'`]([^\"'`]{1,80})[\"'`]"),
    "line": re.compile(r"[^\n]+"),
}
_FIX = "keep the answer out of the prompt, the system message and the tools' descriptions"


def check_prompt(subject: Subject) -> Iterator[Finding]:
    """No rule that only copies from the first messages wins, and the oracle's answer is not among them."""
    starts = subject.starts[:_MOST_TASKS]
    prompts = [subject.run(_prompt(subject, start), "reset") for start in starts]
    rule = _winning_rule(subject, starts, prompts)
    if rule is not None:
        problem = f"copying {rule} from the first messages wins on all {len(starts)} tasks tried"
        tasks = len({start.task.id for start in starts})
        yield Finding("answer-in-prompt", "error" if tasks >= _ENOUGH_TASKS else "warning", problem, _FIX)
    elif hasattr(subject.env_class, "oracle"):
        yield from _verbatim_answer(subject, starts, prompts)


async def _prompt(subject: Subject, start: Start) -> str:
    episode = Episode()
    async with aclosing(subject.create()) as env:
        await begin(env, episode, start)
        tools = " ".join(str(tool["function"].get("description", "")) for tool in env.tool_schemas)
    return "\n".join([message.content for message in episode.messages] + [tools])


def _winning_rule(subject: Subject, starts: Sequence[Start], prompts: Sequence[str]) -> str | None:
    """A rule that wins every task, such as `number 2` (copy the second number of the prompt); None if there is none."""
    winning: set[str] | None = None
    for start, prompt in zip(starts, prompts, strict=True):
        rules = {rule: text for rule, text in copies(prompt).items() if winning is None or rule in winning}
        won: dict[str, bool] = {}
        for text in dict.fromkeys(rules.values()):
            won[text] = subject.play(say(text), start, max_steps=1).won()
        winning = {rule for rule, text in rules.items() if won[text]}
        if not winning:
            return None
    return min(winning) if winning else None


def copies(prompt: str) -> dict[str, str]:
    """What each rule copies: one of the first and last words, numbers, quoted texts or lines, or the whole prompt."""
    copies = {"the whole prompt": prompt}
    for kind, pattern in _KINDS.items():
        found = [match.strip() for match in pattern.findall(prompt)]
        for index, text in enumerate(found[:_NEAR_ENDS]):
            copies[f"{kind} {index + 1}"] = text
        for index, text in enumerate(reversed(found[-_NEAR_ENDS:])):
            copies[f"{kind} {index + 1} from the end"] = text
    return copies


def _verbatim_answer(subject: Subject, starts: Sequence[Start], prompts: Sequence[str]) -> Iterator[Finding]:
    """A finding if the oracle's final text is in its own prompt, rarely in those of other tasks, and wins alone."""
    answers = [_final_text(subject, start) for start in starts]
    if len(Counter(answers)) < len(starts) / 2:
        return
    given_away = 0
    for index, (start, answer) in enumerate(zip(starts, answers, strict=True)):
        others = sum(_stands_in(answer, prompt) for i, prompt in enumerate(prompts) if i != index)
        if _stands_in(answer, prompts[index]) and others <= len(starts) / 4:
            given_away += subject.play(say(answer), start, max_steps=1).won()
    if given_away >= 0.9 * len(starts):
        problem = f"the oracle's answer is word for word in the first messages on {given_away} of {len(starts)} tasks"
        yield Finding("answer-in-prompt", "warning", problem, _FIX + "; fine if reading a text is the task")


def _final_text(subject: Subject, start: Start) -> str:
    try:
        actions = subject.play(oracle, start).actions
    except Exception:  # reported by check_oracle
        return ""
    return actions[-1].text.strip() if actions else ""


def _stands_in(answer: str, prompt: str) -> bool:
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prompt) is not None
