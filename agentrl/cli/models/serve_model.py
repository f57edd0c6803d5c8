"""`agentrl serve-model`: a model folder on an OpenAI-compatible address. Owns the options."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from agentrl.cli.boundary import json_option, note, print_json
from agentrl.cli.policy_options import CHAT_FORMAT, CHAT_TEMPLATE, read_template


@click.command("serve-model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--name", help="Name by which clients ask for the model; the folder's by default.")
@click.option(
    "--api-key-env",
    default="AGENTRL_SERVE_KEY",
    show_default=True,
    help="Variable that holds the key clients must send.",
)
@CHAT_FORMAT
@CHAT_TEMPLATE
@click.option("--device", default="auto", show_default=True, help="Where the model runs: cpu, cuda, cuda:1.")
@click.option("--max-context", type=click.IntRange(1), help="Most tokens of a conversation; the run's, or up to 4096.")
@click.option("--slots", type=click.IntRange(1), default=64, show_default=True, help="Answers sampled at once.")
@json_option
def command(
    folder: Path,
    host: str,
    port: int,
    name: str | None,
    api_key_env: str,
    chat_format: str | None,
    chat_template: str | None,
    device: str,
    max_context: int | None,
    slots: int,
    as_json: bool,
) -> None:
    """Serve the model in FOLDER to every client of OpenAI's chat API, until Ctrl-C.

    FOLDER is a model folder or a finished run. A run's chat format and context are taken from its settings, also where
    the folder was exported from it.

    \b
    agentrl serve-model models/shop
    agentrl bench agentrl/Shop-v0 --policy openai:shop --base-url http://127.0.0.1:8000/v1 --temperature 0
    """
    from agentrl.serving.chat_model import ChatModel
    from agentrl.serving.server import serve
    from agentrl.training.export import model_of_run
    from agentrl.training.folder import is_run
    from agentrl.training.model_setup import device_of

    note(f"Loading {folder}")
    options: dict[str, Any] = {"name": name, "slots": slots, "device": device_of(device)}
    if is_run(folder):
        options["name"] = name or folder.resolve().name
        folder, of_run = model_of_run(folder)
        chat_format, max_context = chat_format or of_run.chat_format, max_context or of_run.max_context
    model = ChatModel.from_folder(
        folder,
        chat_format=chat_format,
        chat_template=read_template(chat_template),
        max_context=max_context,
        **options,
    )

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "model": model.name, "context": model.context})
        note(f"Serving {folder} as {model.name!r} on {url} (Ctrl-C ends)")

    with suppress(KeyboardInterrupt):
        serve(model, host=host, port=port, key=os.environ.get(api_key_env, "").strip(), on_ready=ready)
    note("Stopped")
