"""`agentrl import-gguf`: a GGUF file as a model folder. Owns the options, and the folder until it is complete."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, note, print_json


@click.command("import-gguf")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder, such as models/smol.")
@click.option(
    "--chat-template", metavar="FILE", help="Jinja file that replaces the model's template; or hermes, for ChatML."
)
@click.option(
    "--dtype",
    type=click.Choice(("bfloat16", "float32")),
    default="bfloat16",
    show_default=True,
    help="Type of the weights.",
)
@json_option
def command(file: Path, out: Path, chat_template: str | None, dtype: str, as_json: bool) -> None:
    """Write the model of a GGUF FILE as a folder that can be trained.

    \b
    agentrl import-gguf SmolLM2-135M-Instruct.Q4_1.gguf --out models/smol --chat-template hermes
    """
    from agentrl.errors import ConfigError
    from agentrl.policy.convert import gguf_file
    from agentrl.rollout.new_folder import new_folder

    template = None
    if chat_template is not None:
        source = gguf_file.HERMES if chat_template == "hermes" else Path(chat_template)
        try:
            template = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat-template {chat_template} cannot be read: {error}") from error
    note(f"Converting {file} to {out}")
    with new_folder(out) as folder:
        done = gguf_file.convert(file, folder, template=template, dtype=dtype)
    if as_json:
        print_json(
            {
                "out": str(out),
                "architecture": done.architecture,
                "parameters": done.parameters,
                "dtype": done.dtype,
            }
        )
        return
    click.echo(f"{done.architecture}, {done.parameters:,} parameters in {done.dtype}\nModel: {out}")
