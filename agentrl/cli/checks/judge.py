"""`agentrl judge`: a judge on recorded episodes, and how far it can be trusted. Owns the options."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agentrl.bench.judges.agreement import Agreement, Labelled, read_labels
from agentrl.bench.judges.bias import Bias, bias_of
from agentrl.bench.judges.judged import Judged, judge_episodes, label_agreement
from agentrl.bench.views.judge import bias_table, judge_table, label_table
from agentrl.cli.boundary import EXIT_UNTRUSTED, json_option, note, print_json, print_tables
from agentrl.cli.judge_options import judge_of, judge_options
from agentrl.rollout.interchange.files import final_episodes
from agentrl.rollout.judging.judge import Judge
from agentrl.trajectory import Trajectory

_WIDTH = 120
_LABELS = "Conversations with the right verdict, one a line; by default those that the rubric's file names."
_BIAS = "Measure what moves the judge on as many conversations, of the labelled set if there is one."


@dataclass(frozen=True)
class Answer:
    """What the command found; what it was not asked for is None."""

    judged: Judged | None
    labels: Agreement | None
    bias: Bias | None

    @property
    def num_failed(self) -> int:
        failed = 0 if self.judged is None else self.judged.num_failed
        return failed + (0 if self.labels is None else self.labels.failed)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        parts = {"judged": self.judged, "labels": self.labels, "bias": self.bias}
        return {name: None if part is None else part.to_json() for name, part in parts.items()}


@click.command("judge")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@judge_options
@click.option("--labels", type=click.Path(path_type=Path), help=_LABELS)
@click.option("--bias", "num_biased", type=click.IntRange(0), default=0, show_default=True, help=_BIAS)
@click.option("--stage", help="Only episodes of this stage; of a benchmark the policy's by default.")
@click.option("--limit", type=click.IntRange(1), help="Judge at most as many episodes.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Requests at a time.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: Path | None,
    labels: Path | None,
    num_biased: int,
    stage: str | None,
    limit: int | None,
    concurrency: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Judge the episodes of RUN by a rubric, and measure the judge: agreement with labels, and what moves it.

    \b
    agentrl judge runs/bench --judge openai:my-model --rubric rubric.toml
    agentrl judge --judge openai:my-model --rubric rubric.toml --labels labels.jsonl --bias 20

    Exit code 3 if the judge gave no verdict on some: its score then leaves them out.
    """
    judge = judge_of(options, None)
    if judge is None:
        raise click.UsageError("name a judge and what it judges by: --judge openai:NAME --rubric FILE")
    known = labels or judge.rubric.labels
    if run is None and known is None:
        raise click.UsageError("nothing to judge: give a RUN, or --labels FILE, or both")
    episodes = [] if run is None else final_episodes(run, stage=stage, limit=limit)
    labelled = [] if known is None else read_labels(known)
    note(f"Asking {judge.name} about {len(episodes)} episodes and {len(labelled)} labelled conversations")
    answer = asyncio.run(_asked(judge, episodes, labelled, num_biased, concurrency))
    if as_json:
        print_json(answer.to_json())
    else:
        _show(answer, judge.name)
    if answer.num_failed:
        note(f"Warning: the judge gave no verdict {answer.num_failed} times; those are in no score.")
        ctx.exit(EXIT_UNTRUSTED)


async def _asked(
    judge: Judge, episodes: Sequence[Trajectory], labelled: Sequence[Labelled], num_biased: int, concurrency: int
) -> Answer:
    async with judge:
        judged = agreement = None
        if episodes:
            judged = await judge_episodes(judge, episodes, labels=labelled, max_concurrency=concurrency)
            agreement = judged.labels
        elif labelled:
            agreement = await label_agreement(judge, labelled, max_concurrency=concurrency)
        bias = None
        if num_biased:
            conversations = [item.messages for item in labelled] or [tuple(e.messages()) for e in episodes]
            bias = await bias_of(judge, conversations[:num_biased], max_concurrency=concurrency)
    return Answer(judged, agreement, bias)


def _show(answer: Answer, name: str) -> None:
    if answer.judged is not None:
        print_tables(judge_table(answer.judged), _WIDTH)
    elif answer.labels is not None:
        print_tables(label_table(name, answer.labels), _WIDTH)
    if answer.bias is not None:
        print_tables(bias_table(answer.bias), _WIDTH)
