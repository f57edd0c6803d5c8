"""The `agentrl` command. Owns the list of commands; each is imported only when it is called."""

from __future__ import annotations

import logging

import click

from agentrl import __version__
from agentrl.cli.boundary import Commands, debug_option
from agentrl.safe_json import for_terminal
from agentrl.wire.redaction import without_credentials

COMMANDS = {
    "train": "Train an agent on an environment.",
    "bench": "Measure agents on an environment.",
    "import": "Make a store of recorded chats, ATIF documents or a log of Inspect.",
    "export-episodes": "Write a run's episodes for Inspect, ATIF or verifiers.",
    "export-tasks": "Write an environment's tasks as folders for Harbor.",
    "import-gguf": "Make a model folder of a GGUF file.",
    "credit": "Measure how well estimators tell which turns were good.",
    "compare": "Compare benchmarks or training runs task by task.",
    "status": "Show how a training run is getting on.",
    "view": "Look at runs and episodes in a page, while they grow.",
    "export": "Write the model of a run as a folder of its own.",
    "capture": "Record or train an agent's own program.",
    "serve": "Serve an environment to other processes and frameworks.",
    "serve-model": "Answer OpenAI's chat API with a model folder.",
    "envs": "List the environments.",
    "check": "Find what is wrong with an environment.",
    "conform": "Play an environment through every door, and compare.",
    "judge": "Score recorded episodes by a rubric, and measure the judge.",
    "audit": "Find what makes scores on an environment worthless.",
    "play": "Be the agent, in this terminal.",
    "new-env": "Start a package with an environment of your own.",
    "report": "Write the page of benchmarks, or of a training run.",
    "rescore": "Score recorded episodes again, without a model.",
    "replay": "Execute recorded episodes again and compare.",
    "reproduce": "Sample recorded episodes again and compare bit by bit.",
    "doctor": "Show what works on this machine, and how to fix what does not.",
}


@click.group(cls=Commands, summaries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentrl")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, on stderr.")
@debug_option
def main(verbose: bool) -> None:
    """Train and benchmark tool-using language-model agents from environment reward."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        if not verbose:
            handler.addFilter(FirstOfItsKind())
        handler.addFilter(SafeToShow())


class SafeToShow(logging.Filter):
    """Hides passwords and keys in addresses, which HTTP clients log as they are, and escapes control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = for_terminal(without_credentials(record.getMessage())), ()
        return True


class FirstOfItsKind(logging.Filter):
    """Shows only the first warnings of each kind: a server that is gone could fill the screen with the same line.

    Args:
        most: how many of one logger and message format are shown; the last of them says so.
    """

    def __init__(self, most: int = 3) -> None:
        super().__init__()
        self.most = most
        self._seen: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg))
        count = self._seen[kind] = self._seen.get(kind, 0) + 1
        if count == self.most:
            record.msg, record.args = f"{record.getMessage()} (more like this are not shown; agentrl -v shows all)", ()
        return count <= self.most
