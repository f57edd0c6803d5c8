"""`LocalPolicy`: a local causal LM as a policy, sampled by the embedded engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.policy.base import SamplingParams
from agentrl.policy.engine import proof as engine_proof
from agentrl.policy.engine.requests import Completion
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.policy.format import proof as format_proof
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.model_folder import load
from agentrl.policy.token_policy import TokenPolicy, context_of, format_of
from agentrl.token_ids import TokenIds


class LocalPolicy(TokenPolicy):
    """Samples turns from a local model.

    Args:
        model: a `transformers` causal LM; a learner may train the same object and then calls `weights_changed`.
        tokenizer: its tokenizer, with a chat template.
        chat_format: a `ChatFormat`, its name, or `auto`.
        chat_template: Jinja text that replaces the tokenizer's.
        sampling: the default of `act`.
        slots: most episodes whose keys and values are kept at once; memory grows with what is used.
        max_context: most tokens of an episode, 4096 by default, and never more than the model's own limit. A
            turn that would pass it is cut off (`finish_reason="length"`), with no tokens where none fit.
        seed: mixed with the episode's id where `sampling.seed` is None. A `sampling.seed` names the stream
            alone: episodes sampled with the same one draw the same random numbers.
        version: number of the first weights; a resumed run continues its count.
        exact: sample each turn with the same bits, whatever else is sampled at the same time. None does so where the
            machine and the model allow it without being slow: on a CPU, for the Llama family.
    Raises: ModelError if the chat format or the engine cannot be proved right for the model; it says what to set.
    """

    name = "local"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat_format: ChatFormat | str = "auto",
        chat_template: str | None = None,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008 (frozen)
        slots: int = 64,
        max_context: int | None = None,
        seed: int = 0,
        version: int = 0,
        exact: bool | None = None,
    ) -> None:
        super().__init__(format_of(chat_format, model, tokenizer, chat_template), sampling, seed)
        self.model, self.tokenizer = model, tokenizer
        format_proof.prove(self.format)
        options = EngineOptions(slots=slots, context=context_of(model, max_context), exact=exact)
        self.engine = engine_proof.proved(lambda state: self._engine(replace(options, state=state)))
        self.engine.version = version
        self.context = options.context

    @classmethod
    def from_folder(cls, folder: str | Path, **options: Any) -> LocalPolicy:
        """The policy of a model folder; options as for the class, and `device`.

        Raises: ModelError if the folder lacks files or a chat template.
        """
        model, tokenizer = load(folder, device=options.pop("device", "cpu"))
        return cls(model, tokenizer, **options)

    @property
    def version(self) -> int:
        """Number of the current weights."""
        return self.engine.version

    @property
    def exact(self) -> bool:
        """Whether a turn's bits do not depend on what else is sampled at the same time."""
        return self.engine.exact

    def weights_changed(self, *, drop_cache: bool = True, version: int | None = None) -> None:
        """Call after an update of `model`: counts a version and drops what the old weights computed.

        Args:
            drop_cache: as of the engine.
            version: number of the new weights; by default the next one.
        """
        self.engine.weights_changed(drop_cache=drop_cache)
        if version is not None:
            self.engine.version = version

    def forget(self) -> None:
        """Drop all keys and values and the ownership of slots; what is sampled next is as from a new policy."""
        self.engine.forget()

    def _engine(self, options: EngineOptions) -> Engine:
        return Engine(self.model, stop_ids=self.format.stop_ids, decode=self.format.decode, options=options)

    async def _sample(self, episode_id: str, prompt: TokenIds, sampling: SamplingParams, seed: int) -> Completion:
        return await self.engine.sample(episode_id, prompt, sampling, seed)

    async def release(self, episode_id: str) -> None:
        await super().release(episode_id)
        self.engine.release(episode_id)
