"""SGLang's endpoints: `/generate` with token ids, and those that give it new weights.

Source: SGLang's documentation of the native API, of its sampling parameters and of its use for reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.policy.servers.api import Sampled, Scored, ServerApi, Turn, check_sampled, paused, read
from agentrl.policy.servers.cards import adapters_of
from agentrl.policy.servers.wire import NotOffered, ServerLost

_PATH = "/generate"
_CONTROL_TIMEOUT_S = 60.0
# Without them the server takes the defaults of the model's generation_config.json.
_PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1}
_ALL_TOKENS = -1
_SEED_BITS = 0x7FFFFFFF
_LORA = "start SGLang with --enable-lora, --max-lora-rank and --lora-target-modules"

Entry = tuple[float | None, int, Any]
"""Log-probability, id and text."""


class _Finish(BaseModel):
    type: str


class _Meta(BaseModel):
    finish_reason: _Finish
    output_token_logprobs: list[Entry]
    input_token_logprobs: list[Entry] | None = None
    prompt_tokens: int
    cached_tokens: int = 0
    weight_version: str | None = None


class _Generated(BaseModel):
    output_ids: list[int]
    meta_info: _Meta


class _Update(BaseModel):
    success: bool
    message: str = ""


class _ModelInfo(BaseModel):
    weight_version: str | None = None


class Sglang(ServerApi):
    """An SGLang server."""

    kind = "sglang"
    _base: str | None = None

    def check(self, sampling: SamplingParams) -> None:
        """Raises: ConfigError for a truncation: the server's log-probabilities are those before it."""
        if sampling.temperature and (sampling.top_p < 1 or sampling.top_k):
            raise ConfigError(
                f"SGLang gives log-probabilities before top_p={sampling.top_p:g} and top_k={sampling.top_k}, which are "
                "not those of the distribution that it draws from: set sampling.top_p = 1, or use vLLM"
            )

    async def sample(self, turn: Turn) -> Sampled:
        how = turn.sampling
        generated = await self._generate(
            turn.prompt,
            {
                "max_new_tokens": turn.room,
                "temperature": how.temperature,
                "top_p": how.top_p,
                "top_k": how.top_k or _ALL_TOKENS,
                "sampling_seed": turn.seed & _SEED_BITS,
                "stop": list(how.stop),
                "stop_token_ids": sorted(turn.stop_ids),
                "no_stop_trim": True,
            },
        )
        meta = generated.meta_info
        if meta.finish_reason.type not in ("stop", "length"):
            raise ServerLost(f"{self.at.shown} ended a turn with {meta.finish_reason.type!r}")
        sampled = Sampled(
            tuple(generated.output_ids),
            self._logprobs(meta.output_token_logprobs),
            "stop" if meta.finish_reason.type == "stop" else "length",
            meta.cached_tokens,
            self._named(meta.weight_version),
        )
        return check_sampled(turn, sampled, self.at.shown)

    async def score(self, ids: Sequence[int], temperature: float) -> Scored:
        how = {"max_new_tokens": 1, "temperature": temperature, "top_p": 1.0, "top_k": _ALL_TOKENS, "sampling_seed": 0}
        meta = (await self._generate(ids, how, logprob_start_len=0)).meta_info
        entries = meta.input_token_logprobs or []
        if [entry[1] for entry in entries] != list(ids) or not meta.output_token_logprobs:
            raise ServerLost(f"{self.at.shown} gave log-probabilities of other tokens than those of the text")
        drawn = meta.output_token_logprobs[0]
        return Scored(self._logprobs(entries[1:]), (drawn[1], self._logprobs([drawn])[0]))

    def _logprobs(self, entries: Sequence[Entry]) -> tuple[float, ...]:
        found = [logprob for logprob, _, _ in entries if logprob is not None]
        if len(found) != len(entries):
            raise ServerLost(f"{self.at.shown} gave {len(found)} log-probabilities for {len(entries)} tokens")
        return tuple(found)

    async def _generate(self, prompt: Sequence[int], how: dict[str, Any], **more: Any) -> _Generated:
        body = {"input_ids": list(prompt), "sampling_params": {**_PLAIN, **how}, "return_logprob": True, **more}
        if self.adapters is not None:
            body["lora_path"] = self.adapters
        what = f"{self.at.shown}{_PATH}"
        try:
            content = await self.at.post(_PATH, body, timeout_s=self.timeout_s)
        except ConfigError as error:
            if self.adapters is None or self.adapters in await adapters_of(self.at):
                raise
            raise ServerLost(str(error), "weights") from None
        generated = read(_Generated, content, what)
        meta = generated.meta_info
        if meta.prompt_tokens != len(prompt):
            raise ServerLost(f"{what} read {meta.prompt_tokens} ids where the prompt has {len(prompt)}")
        if [entry[1] for entry in meta.output_token_logprobs] != generated.output_ids:
            raise ServerLost(f"{what} gave log-probabilities of other tokens than those that were sampled")
        return generated

    async def load(self, folder: Path, name: str) -> None:
        self.adapters = None
        what = f"{self.at.shown}/update_weights_from_disk"
        body = {"model_path": str(folder), "weight_version": name, "flush_cache": True}
        async with paused(self._pause, self._resume, self.at.shown):
            updated = read(
                _Update, await self.at.post("/update_weights_from_disk", body, timeout_s=self.timeout_s), what
            )
        if not updated.success:
            raise ServerLost(f"{what} loaded no weights: {updated.message}")

    async def _pause(self) -> None:
        # The update is refused while something is sampled; other modes than `retract` end or keep what others sample.
        await self.at.post("/pause_generation", {"mode": "retract"}, timeout_s=_CONTROL_TIMEOUT_S)

    async def _resume(self) -> None:
        await self.at.post("/continue_generation", {}, timeout_s=_CONTROL_TIMEOUT_S)

    async def load_adapters(self, folder: Path, name: str) -> None:
        self._base = await self._base_name()
        if name not in await adapters_of(self.at):  # it is there if an answer was lost
            body = {"lora_name": name, "lora_path": str(folder)}
            try:
                await self.at.post("/load_lora_adapter", body, timeout_s=self.timeout_s)
            except NotOffered as error:
                raise ConfigError(f"{error}: {_LORA}") from None
            except ConfigError as error:
                raise ConfigError(f"{error}. Was it started with what adapters need? {_LORA}") from None
        self.adapters = name

    async def unload_adapters(self, name: str) -> None:
        await self.at.post("/unload_lora_adapter", {"lora_name": name}, timeout_s=_CONTROL_TIMEOUT_S)

    async def weights(self) -> str:
        name = self._named(await self._base_name())
        if name is None:
            raise ConfigError(f"{self.at.shown} does not say which weights it has: a newer SGLang names them")
        return name

    def _named(self, base: str | None) -> str | None:
        """Name of what turns are sampled with, by that of the server's own weights."""
        return self.adapters if self.adapters is not None and base == self._base else base

    async def _base_name(self) -> str | None:
        try:
            content = await self.at.get("/model_info", timeout_s=_CONTROL_TIMEOUT_S)
        except NotOffered:  # the name of this path in older servers
            content = await self.at.get("/get_model_info", timeout_s=_CONTROL_TIMEOUT_S)
        return read(_ModelInfo, content, f"{self.at.shown}/model_info").weight_version

    async def is_well(self) -> None:
        # A trainer that was killed may have left it paused, and a server that is paused says that it is not well.
        await self._resume()
        await self.at.get("/health", timeout_s=_CONTROL_TIMEOUT_S)
