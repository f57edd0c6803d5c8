"""vLLM's endpoints: `/v1/completions` with token ids, and those of its development mode for new weights.

Source: vLLM 0.32, `vllm/entrypoints/openai/completion`, `vllm/entrypoints/rl/online` and `vllm/entrypoints/serve/dev`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.policy.servers.api import Sampled, Scored, ServerApi, Turn, check_sampled, first, paused, read
from agentrl.policy.servers.cards import adapters_of
from agentrl.policy.servers.wire import NotOffered, ServerLost

_PATH = "/v1/completions"
_CONTROL_TIMEOUT_S = 60.0
# Without them the server takes the defaults of the model's generation_config.json.
_PLAIN = {
    "n": 1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stream": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "logprobs": 0,
}
_DEV_MODE = "start vLLM with the environment variable VLLM_SERVER_DEV_MODE=1, which offers the update of weights"
_NAMES = f"{_DEV_MODE}, in a version that can name its weights (/weight_info): otherwise no restart would be noticed"
_LORA = "start vLLM with --enable-lora and the environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"


class _Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]


class _Entry(BaseModel):
    logprob: float


class _Choice(BaseModel):
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: str
    prompt_logprobs: list[dict[int, _Entry] | None] | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _Details | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage = _Usage()


class _Reset(BaseModel):
    success: bool


class _WeightInfo(BaseModel):
    weight_version: str


class Vllm(ServerApi):
    """A vLLM server."""

    kind = "vllm"
    _base = ""

    def check(self, sampling: SamplingParams) -> None:
        """It samples in every way that needs no signals."""

    async def sample(self, turn: Turn) -> Sampled:
        how = turn.sampling
        choice, usage = await self._complete(
            turn.prompt,
            {
                "max_tokens": turn.room,
                "temperature": how.temperature,
                "top_p": how.top_p,
                "top_k": how.top_k,
                "seed": turn.seed,
                "stop": list(how.stop),
                "include_stop_str_in_output": True,
                "stop_token_ids": sorted(turn.stop_ids),
                "ignore_eos": True,  # the ids that end a turn are those of the chat format, and no others
            },
        )
        if choice.finish_reason not in ("stop", "length"):
            raise ServerLost(f"{self.at.shown} ended a turn with {choice.finish_reason!r}")
        details = usage.prompt_tokens_details
        sampled = Sampled(
            tuple(choice.token_ids),
            tuple(choice.logprobs.token_logprobs),
            "stop" if choice.finish_reason == "stop" else "length",
            (details.cached_tokens or 0) if details is not None else 0,
        )
        return check_sampled(turn, sampled, self.at.shown)

    async def score(self, ids: Sequence[int], temperature: float) -> Scored:
        choice, _ = await self._complete(
            ids,
            {"max_tokens": 1, "temperature": temperature, "top_p": 1.0, "top_k": 0, "seed": 0, "prompt_logprobs": 0},
        )
        entries = (choice.prompt_logprobs or [])[1:]
        found = [entry.get(token) if entry else None for token, entry in zip(ids[1:], entries, strict=False)]
        if len(found) != len(ids) - 1 or not choice.token_ids:
            raise ServerLost(f"{self.at.shown} gave log-probabilities of {len(found)} of {len(ids) - 1} tokens")
        logprobs = [entry.logprob for entry in found if entry is not None]
        if len(logprobs) != len(found):
            raise ServerLost(f"{self.at.shown} gave log-probabilities of other tokens than those of the text")
        return Scored(tuple(logprobs), (choice.token_ids[0], choice.logprobs.token_logprobs[0]))

    async def _complete(self, prompt: Sequence[int], fields: dict[str, Any]) -> tuple[_Choice, _Usage]:
        body = {"model": self.adapters or self.model, "prompt": list(prompt), **_PLAIN, **fields}
        what = f"{self.at.shown}{_PATH}"
        try:
            content = await self.at.post(_PATH, body, timeout_s=self.timeout_s)
        except NotOffered as error:
            if self.adapters is None:
                raise
            raise ServerLost(str(error), "weights") from None
        answer = read(_Completion, content, what)
        choice: _Choice = first(answer.choices, what)
        if choice.prompt_token_ids != list(prompt):
            raise ServerLost(f"{what} read other ids than those of the prompt")
        if choice.logprobs.tokens != [f"token_id:{token}" for token in choice.token_ids]:
            raise ServerLost(f"{what} gave log-probabilities of other tokens than those that were sampled")
        return choice, answer.usage

    async def load(self, folder: Path, name: str) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self.adapters = None
        async with paused(self._pause, self._resume, self.at.shown):
            await self.at.post("/collective_rpc", body, timeout_s=self.timeout_s)
            await self._empty_cache()
        try:
            await self.at.post("/update_weight_version", {"new_version": name}, timeout_s=_CONTROL_TIMEOUT_S)
        except NotOffered as error:
            raise ConfigError(f"{error}: {_NAMES}") from None

    async def _empty_cache(self) -> None:
        """Give up what was computed with the weights before; the server answers 200 also where it keeps that."""
        path = "/reset_prefix_cache"
        what = f"{self.at.shown}{path}"
        if not read(_Reset, await self.at.post(path, timeout_s=_CONTROL_TIMEOUT_S), what).success:
            raise ServerLost(f"{what} kept what it had computed with other weights")

    async def load_adapters(self, folder: Path, name: str) -> None:
        self._base = await self._base_name()
        if name not in await adapters_of(self.at):  # it is there if an answer was lost
            body = {"lora_name": name, "lora_path": str(folder)}
            try:
                await self.at.post("/v1/load_lora_adapter", body, timeout_s=self.timeout_s)
            except NotOffered as error:
                raise ConfigError(f"{error}: {_LORA}") from None
        self.adapters = name

    async def unload_adapters(self, name: str) -> None:
        await self.at.post("/v1/unload_lora_adapter", {"lora_name": name}, timeout_s=_CONTROL_TIMEOUT_S)

    async def _pause(self) -> None:
        try:
            await self.at.post("/pause?mode=wait", timeout_s=self.timeout_s)
        except NotOffered as error:
            raise ConfigError(f"{error}: {_DEV_MODE}") from None

    async def _resume(self) -> None:
        await self.at.post("/resume", timeout_s=_CONTROL_TIMEOUT_S)

    async def weights(self) -> str:
        base = await self._base_name()
        return self.adapters if self.adapters is not None and base == self._base else base

    async def _base_name(self) -> str:
        """Name of the server's own weights."""
        try:
            content = await self.at.get("/weight_info", timeout_s=_CONTROL_TIMEOUT_S)
        except NotOffered as error:
            raise ConfigError(f"{error}: {_NAMES}") from None
        return read(_WeightInfo, content, f"{self.at.shown}/weight_info").weight_version

    async def is_well(self) -> None:
        await self.at.get("/health", timeout_s=_CONTROL_TIMEOUT_S)
