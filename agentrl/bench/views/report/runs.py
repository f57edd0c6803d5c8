"""The runs of a report, read from their folders. Owns which episodes the page holds, and how much of their texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentrl.bench.folder import SUMMARY, read_summary
from agentrl.bench.measures.cost import Price
from agentrl.bench.measures.effort import num_tokens
from agentrl.bench.measures.outline import Outlines
from agentrl.bench.measures.tools import tool_counts
from agentrl.bench.rescoring.recorded import MAIN, Recorded, read_recorded
from agentrl.bench.result import Score, score_of
from agentrl.bench.views.report.packed import Packer, shortened
from agentrl.bench.views.report.state_diff import state_diffs
from agentrl.bench.views.report.tally import Tally
from agentrl.bench.views.transcripts import shown_message
from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.trajectory import Trajectory

AUDIT = "audit.json"
MOST_BYTES = 14_000_000
"""Of the packed transcripts: with the rest of the page they stay below 15 MB."""
_LENGTHS = (20_000, 4_000, 1_000, 200, 40)
_MOST_MESSAGES = 400
_SAMPLED = 10
_MOST_EVERY = 1_000_000
_OF_TASKS = ("tasks", "identity")  # fields of a summary in which every task stands; the page needs neither


@dataclass(frozen=True)
class ReportRun:
    """One benchmark of a report.

    Attributes:
        name: of its folder, with those above it where other runs of the report have the same.
        recorded: where its episodes are; it holds none.
        tally: of its policy's episodes, references left out.
        score: of its policy.
        summary: what its folder's summary.json says.
        audit: the JSON of `agentrl audit`, if it stands next to the episodes.
    """

    name: str
    recorded: Recorded
    tally: Tally
    score: Score
    summary: Mapping[str, Any]
    audit: Mapping[str, Any] | None

    def whole(self, every: int = 1) -> Iterator[Trajectory]:
        """One in `every` of the episodes of the policy, whole, read one by one; references are left out."""
        lines = self.recorded.lines if every == 1 else frozenset(sorted(self.recorded.lines)[::every])
        return self.recorded.of_phase(MAIN, lines)

    @property
    def price(self) -> Price | None:
        """Of the policy's tokens, if the benchmark knew it."""
        found = (self.summary.get("config") or {}).get("price")
        return Price(**found) if found else None


def read_runs(places: Sequence[Path]) -> list[ReportRun]:
    """Benchmarks, named by their folders or by summary.json.

    Raises: ConfigError if one is none, or for a wrong audit.json.
    """
    folders = [folder_of(place) for place in places]
    return [_read_run(folder, name) for folder, name in zip(folders, folder_names(folders), strict=True)]


def folder_of(place: Path) -> Path:
    """The folder of a benchmark that is named by it, or by its summary.json."""
    return place.parent if place.name == SUMMARY else place


def folder_names(folders: Sequence[Path]) -> list[str]:
    """As many of the last parts of each path as tell them apart."""
    whole = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in whole)):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            return names
    return list(map(str, whole))


def _read_run(folder: Path, name: str) -> ReportRun:
    recorded = read_recorded(folder, kept_as=Outlines().of)
    own = [episode for episode in recorded.episodes if episode.labels.stage == MAIN]
    score = score_of(own, trials=recorded.config.trials, n_planned=recorded.planned(MAIN))
    summary = {key: of for key, of in read_summary(folder, without=_OF_TASKS).items() if key not in _OF_TASKS}
    return ReportRun(name, replace(recorded, episodes=()), Tally.of(own), score, summary, _audit(folder.resolve()))


def _audit(folder: Path) -> Mapping[str, Any] | None:
    """The audit of a benchmark, or its part of the audit of the suite whose folder it stands in."""
    found = _read_audit(folder / AUDIT)
    of_suite = _read_audit(folder.parent / AUDIT) if found is None else None
    if of_suite is not None:
        found = of_suite.get("envs", {}).get(folder.name)
    if found is not None and not {"ok", "flaws", "checks", "env"} <= found.keys():
        raise ConfigError(
            f"{folder / AUDIT} is no result of `agentrl audit --json` (it has no verdict): write it again"
        )
    return found


def _read_audit(path: Path) -> Mapping[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no result of `agentrl audit --json` ({error}): write it again") from None


@dataclass(frozen=True)
class PackedRuns:
    """What the page's script shows.

    Attributes:
        text: packed.
        cut_at: to how many characters long texts were cut; 0 for none.
        every: 3 means that the page holds every third episode.
    """

    text: str
    cut_at: int = 0
    every: int = 1


def packed_runs(runs: Sequence[ReportRun], most_bytes: int = MOST_BYTES) -> PackedRuns:
    """The episodes, packed in at most `most_bytes`.

    Texts are cut shorter until all episodes fit; where none is short enough, the page leaves episodes out.
    One in ten is packed first, to find out which length is worth while. Episodes are read from the store one by one.
    """
    sizes = dict.fromkeys(_LENGTHS, 0)
    if sum(run.tally.num_episodes for run in runs) > _SAMPLED:
        sizes = {length: _SAMPLED * size for length, size in _sizes(runs).items()}
    for length in _LENGTHS[:-1]:
        if sizes[length] <= 1.5 * most_bytes:
            found = _packed(runs, length, most_bytes)
            if found is not None:
                return found
    every = 1
    while (found := _packed(runs, _LENGTHS[-1], most_bytes, every)) is None and every < _MOST_EVERY:
        every = max(2 * every, sizes[_LENGTHS[-1]] // most_bytes)
    return found or PackedRuns(Packer(_names_of(runs)).text(), _LENGTHS[-1], every)


def _sizes(runs: Sequence[ReportRun]) -> dict[int, int]:
    """About the packed size of one in ten episodes, for each length of texts."""
    packers = {length: Packer(_names_of(runs)) for length in _LENGTHS}
    for number, run in enumerate(runs):
        for episode in run.whole(_SAMPLED):
            for length, packer in packers.items():
                packer.add([_row(run, number, episode, length)])
    return {length: len(packer.text()) for length, packer in packers.items()}


def _packed(runs: Sequence[ReportRun], most: int, most_bytes: int, every: int = 1) -> PackedRuns | None:
    """One in `every` episodes, with texts of at most `most` characters; None where they need more than `most_bytes`."""
    packer, longest = Packer(_names_of(runs)), 0
    for number, run in enumerate(runs):
        for episode in run.whole(every):
            row = _row(run, number, episode, most)
            longest = max(longest, row.pop("longest"))
            packer.add([row])
            if packer.size > most_bytes:
                return None
    text = packer.text()
    return PackedRuns(text, most if longest > most else 0, every) if len(text) <= most_bytes else None


def _names_of(runs: Sequence[ReportRun]) -> list[dict[str, str]]:
    return [{"name": run.name, "policy": run.recorded.policy} for run in runs]


def _row(run: ReportRun, number: int, episode: Trajectory, most: int) -> dict[str, Any]:
    shown, ending, price = list(_messages(episode)), episode.ending, run.price
    return {
        "run": number,
        "task": episode.task.id,
        "family": episode.task.family,
        "trial": int(episode.group_id.rpartition("#")[2]),
        "seed": episode.seed,
        "ok": episode.success,
        "reward": episode.reward if ending.kind != "fault" else None,
        "parts": dict(episode.reward_components),
        "kind": ending.kind,
        "detail": shortened(ending.detail, most),
        "who": ending.who,
        "tokens": num_tokens(episode, "completion_tokens"),
        "seconds": sum(turn.policy_s + turn.env_s for turn in episode.turns),
        "usd": price.of(episode) if price is not None else None,
        "tools": {name: [counts["calls"], counts["errors"]] for name, counts in tool_counts(episode).items()},
        "judged": _judged(run, episode, most),
        "info": shortened(json.dumps(dict(episode.info), default=repr, ensure_ascii=False), most),
        "messages": [_cut(message, most) for message in shown[:_MOST_MESSAGES]],
        "further": max(0, len(shown) - _MOST_MESSAGES),
        "longest": max((longest_text(message) for message in shown), default=0),
    }


def _judged(run: ReportRun, episode: Trajectory, most: int) -> dict[str, Any] | None:
    """A judge's verdict on an episode; None where there is none."""
    verdict = ((run.summary.get("judge") or {}).get("verdicts") or {}).get(episode.episode_id)
    if not isinstance(verdict, Mapping):
        return None
    return {**verdict, "reason": shortened(str(verdict.get("reason", "")), most)}


def _messages(episode: Trajectory) -> Iterator[dict[str, Any]]:
    """The conversation; a message of the model has the reward of its turn, and what it changed in the state."""
    for turn, diff in zip(episode.turns, state_diffs(episode.turns), strict=True):
        yield from map(shown_message, turn.observation)
        own: Message = turn.action.to_message()
        yield {**shown_message(own), "reward": turn.reward, "state": diff}
    if episode.turns:
        yield from map(shown_message, episode.turns[-1].next_observation)


def longest_text(message: Mapping[str, Any]) -> int:
    """Characters of the longest text of a message: its words, its thinking, or a call."""
    texts = [value for value in message.values() if isinstance(value, str)]
    return max(map(len, [*texts, *(call["text"] for call in message["calls"])]), default=0)


def _cut(message: Mapping[str, Any], most: int) -> dict[str, Any]:
    cut = {name: shortened(value, most) if isinstance(value, str) else value for name, value in message.items()}
    cut["calls"] = [{**call, "text": shortened(call["text"], most)} for call in message["calls"]]
    return {name: value for name, value in cut.items() if value not in (None, "", [], 0.0)}
