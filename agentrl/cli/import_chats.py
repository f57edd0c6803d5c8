"""`agentrl import`: chats that were recorded elsewhere become a store to train on. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.progress import Counter
from agentrl.rollout.sources.chat_import import Imported, import_chats


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder, such as data/chats.")
@click.option("--keep-fields", is_flag=True, help="Keep fields that are not known in each chat's metadata.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are no chats, instead of importing nothing.")
@json_option
def command(file: Path, out: Path, keep_fields: bool, skip_bad: bool, as_json: bool) -> None:
    """Make a store of FILE, which holds one chat a line in OpenAI's form: messages, tools, reward, …

    \b
    agentrl import chats.jsonl --out data/chats
    agentrl train agentrl/Shop-v0 --set 'stages.warm_start.data=[{path="data/chats"}]'
    """
    with Counter("lines") as counter:
        done = import_chats(file, out, keep_unknown=keep_fields, skip_bad=skip_bad, on_line=counter.show)
    if as_json:
        print_json(done.to_json())
        return
    for line, why in done.skipped.items():
        note(f"line {line} was left out: {why}")
    say(summary_text(done))


def summary_text(done: Imported) -> str:
    """What was imported, and how to train on it."""
    rewards = f"{done.rewarded} with a reward, {done.succeeded} of them succeeded" if done.rewarded else "no rewards"
    return (
        f"{done.chats} chats, {done.turns} turns of the assistant, {done.tasks} different tasks, {rewards}\n"
        f'Store: {done.out}  (stages.NAME.data = [{{ path = "{done.out}" }}] in a stage of kind supervise)'
    )
