"""A GGUF file as a model folder: weights out of their quantised blocks, configuration, tokenizer, chat template.

Owns no download and no command. What a quantised file has lost in precision stays lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from agentrl.errors import ModelError
from agentrl.policy import model_folder

HERMES = Path(__file__).with_name("hermes.jinja")
"""A ChatML template with tools: a definition a line, calls as JSON in <tool_call>, results in <tool_response>."""
_EXTRA = 'pip install "agentrl[gguf]"'


@dataclass(frozen=True)
class Converted:
    """A folder that was written.

    Attributes:
        architecture: class of the model in `transformers`.
        parameters: weights, tied ones once.
        dtype: of the weights.
    """

    out: Path
    architecture: str
    parameters: int
    dtype: str


def convert(file: str | Path, out: str | Path, *, template: str | None = None, dtype: str = "bfloat16") -> Converted:
    """Write the model of a GGUF file as a folder, and load it again with all proofs of its weights.

    The whole model is in memory twice, in float32: call this in a process of its own where memory counts.

    Args:
        file: of an architecture whose GGUF files `transformers` reads.
        out: an empty folder, or one that is not there yet. It is not complete before this returns.
        template: text of a chat template that replaces the file's own.
        dtype: of the saved weights.
    Raises: ModelError if the file cannot be read, if packages are missing, or the folder lacks weights.
    """
    path = Path(file)
    _check(path)
    model, tokenizer = _loaded(path)
    if template is not None:
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        raise ModelError(f"{path} has no chat template: give one (--chat-template FILE, or hermes for ChatML models)")
    kind, parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
    model_folder.save(out, model.to(getattr(torch, dtype)), tokenizer)
    del model
    model_folder.load(out, dtype=getattr(torch, dtype))
    return Converted(Path(out), kind, parameters, dtype)


def _check(path: Path) -> None:
    try:
        with path.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it begins with {magic!r}")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelError(f"reading GGUF files needs the packages gguf and accelerate: {_EXTRA}")


def _loaded(path: Path) -> tuple[Any, Any]:
    """The model in float32, as an ordinary one without traces of the quantisation, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # loads for seconds; the file is checked before

    try:
        with model_folder.quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
            )
            read: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
    except Exception as error:  # a broken file can make the loaders raise anything
        raise ModelError(f"{path} cannot be converted: {type(error).__name__}: {error}") from error
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    return model.eval(), tokenizer
