"""`agentrl export-episodes`: a run's episodes as a file of another system. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.rollout.interchange.files import FORMATS, Format, export_episodes

_FORMAT = "inspect: a log (.json); atif: ATIF 1.8 documents (.jsonl, or one in .json); verifiers: traces (.jsonl)."
_STAGE = "Only episodes of this stage; of a benchmark `bench` by default, without the references."


@click.command("export-episodes")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help=_FORMAT)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new file, such as episodes.jsonl.")
@click.option("--stage", help=_STAGE)
@click.option("--limit", type=click.IntRange(1), help="At most as many episodes.")
@click.option("--model", help="Name of what played them; by default what the run's summary says.")
@json_option
def command(
    run: Path, form: Format, out: Path, stage: str | None, limit: int | None, model: str | None, as_json: bool
) -> None:
    """Write the episodes of RUN, a folder or a trajectories.jsonl, for another system to read.

    \b
    agentrl export-episodes runs/bench --format inspect --out log.json
    agentrl export-episodes runs/quickstart --format atif --stage rl --out episodes.jsonl

    `agentrl import` reads the first two back: messages, rewards, token ids and log-probabilities are the same.
    """
    note(f"Writing the episodes of {run} to {out}")
    done = export_episodes(run, out, form, stage=stage, limit=limit, model=model)
    if as_json:
        print_json(done.to_json())
        return
    discarded = f", {done.discarded} of them discarded after a fault" if done.discarded else ""
    say(f"{done.episodes} episodes{discarded}, {done.turns} turns, {done.with_ids} of them with token ids\nFile: {out}")
