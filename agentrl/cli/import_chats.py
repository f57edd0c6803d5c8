"""`agentrl import`: chats and episodes that were recorded elsewhere become a store. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.progress import Counter
from agentrl.rollout.interchange.files import read_atif, read_inspect
from agentrl.rollout.sources.chat_import import Imported, import_chats, import_episodes

_READERS = {"atif": (read_atif, "document"), "inspect": (read_inspect, "sample")}
_FORMAT = "What FILE holds: chats in OpenAI's form, ATIF documents (.json, .jsonl), or a log of Inspect (.json, .eval)."


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--format", "form", type=click.Choice(["chat", *_READERS]), default="chat", show_default=True, help=_FORMAT
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder, such as data/chats.")
@click.option("--keep-fields", is_flag=True, help="Keep fields of a chat that are not known in its metadata.")
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be read, instead of importing nothing.")
@json_option
def command(file: Path, form: str, out: Path, keep_fields: bool, skip_bad: bool, as_json: bool) -> None:
    """Make a store of FILE, which holds one chat a line in OpenAI's form: messages, tools, reward, …

    \b
    agentrl import chats.jsonl --out data/chats
    agentrl import log.eval --format inspect --out data/inspect
    agentrl train agentrl/Shop-v0 --set 'stages.warm_start.data=[{path="data/chats"}]'
    """
    if keep_fields and form != "chat":
        raise click.UsageError(f"--keep-fields goes with chats, not with {form}")
    read, part = _READERS.get(form, (None, "line"))
    with Counter(f"{part}s") as counter:
        if read is None:
            done = import_chats(file, out, keep_unknown=keep_fields, skip_bad=skip_bad, on_line=counter.show)
        else:
            done = import_episodes(file, out, read, part=part, skip_bad=skip_bad, on_part=counter.show)
    if as_json:
        print_json(done.to_json())
        return
    for line, why in done.skipped.items():
        note(f"{part} {line} was left out: {why}")
    say(summary_text(done))


def summary_text(done: Imported) -> str:
    """What was imported, and how to train on it."""
    rewards = f"{done.rewarded} with a reward, {done.succeeded} of them succeeded" if done.rewarded else "no rewards"
    return (
        f"{done.chats} chats, {done.turns} turns of the assistant, {done.tasks} different tasks, {rewards}\n"
        f'Store: {done.out}  (stages.NAME.data = [{{ path = "{done.out}" }}] in a stage of kind supervise)'
    )
