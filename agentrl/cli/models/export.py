"""`agentrl export`: the model of a run as a clean folder. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, note, print_json
from agentrl.cli.policy_options import CHAT_FORMAT, CHAT_TEMPLATE, read_template

_DTYPES = ("float32", "bfloat16", "float16")


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder, such as models/shop.")
@click.option(
    "--checkpoint", "which", default="final", show_default=True, help="final, latest, best, or the number of one."
)
@click.option("--dtype", type=click.Choice(_DTYPES), help="Type of the weights; that of the run by default.")
@CHAT_FORMAT
@CHAT_TEMPLATE
@json_option
def command(
    run: Path,
    out: Path,
    which: str,
    dtype: str | None,
    chat_format: str | None,
    chat_template: str | None,
    as_json: bool,
) -> None:
    """Write the model of RUN as a folder that `transformers`, vLLM and `agentrl serve-model` load.

    Adapters are merged, and the chat template and the run's sampling are saved with it. The folder is loaded again and
    compared with the trained model before it gets its name. RUN may also be a model folder;
    then --chat-format and --chat-template say how it is read, and a run has its own.
    """
    import torch

    from agentrl.training.export import export

    note(f"Exporting {run} to {out}")
    done = export(
        run,
        out,
        which=which,
        dtype=getattr(torch, dtype) if dtype else None,
        chat_format=chat_format,
        chat_template=read_template(chat_template),
    )
    if as_json:
        print_json(done.to_json())
        return
    click.echo(
        f"{done.parameters:,} parameters in {done.dtype}{', adapters merged' if done.merged else ''}, "
        f"{done.bytes / 1e6:.1f} MB, from {done.source}\n"
        f"Loaded again: {done.checked_tokens} log-probabilities, at most {done.max_logprob_difference:.1g} nats apart\n"
        f"Model: {done.out}  (agentrl serve-model {done.out})"
    )
