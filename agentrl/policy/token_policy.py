"""A policy that samples token by token, wherever its engine is: each episode's token context. Owns no engine.

An episode's ids only ever grow: sampled ids stay as they were sampled, and only new messages are
encoded. A conversation that does not continue what was seen is rendered again as a whole.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, TokenSignals
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.control import control_messages, has_spoken
from agentrl.policy.engine.requests import Completion
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.choice import chat_format
from agentrl.sampling import turn_seed
from agentrl.token_ids import TokenIds

logger = logging.getLogger(__name__)
_MAX_CONTEXT = 4096


@dataclass(slots=True)
class _Episode:
    """What one episode's model has seen.

    Attributes:
        messages: the conversation up to and including the last sampled turn.
        tools: definitions shown at the start.
        prompt, sampled: ids that the last turn was sampled after, and its own.
        closed: the last turn ended with a stop token.
        turns: turns sampled so far.
        action, sampling: the last turn, and how it was sampled.
    """

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]]
    prompt: TokenIds
    sampled: tuple[int, ...]
    closed: bool
    turns: int
    action: Action
    sampling: SamplingParams

    def answered(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> bool:
        """Whether exactly this was the last question. Only a sampling seed says that the same answer is wanted."""
        return (
            len(messages) == len(self.messages) - 1
            and sampling.seed is not None
            and sampling == self.sampling
            and self.tools == tools
            and tuple(messages) == self.messages[:-1]
        )


class TokenPolicy(Policy):
    """Renders conversations to ids, has turns sampled, and reads them; `_sample` is the engine's part.

    Attributes:
        format: of the model's conversations.
        sampling: the default of `act`.
        seed: mixed with the episode's id where `sampling.seed` is None. A `sampling.seed` names the stream alone:
            episodes sampled with the same one draw the same random numbers.
        context: most tokens of an episode.
    """

    context: int

    def __init__(self, chat_format: ChatFormat, sampling: SamplingParams, seed: int) -> None:
        self.format, self.sampling, self.seed = chat_format, sampling, seed
        self._episodes: dict[str, _Episode] = {}
        self._warned = False

    @property
    def metrics(self) -> dict[str, float]:
        """How sampling went, for a run's metrics; empty where there is nothing to say."""
        return {}

    @abstractmethod
    async def _sample(self, episode_id: str, prompt: TokenIds, sampling: SamplingParams, seed: int) -> Completion:
        """Sample one turn.

        Args:
            episode_id: of the episode.
            prompt: ids of the whole context.
            sampling: of this turn.
            seed: of this turn's random numbers, 128 bits.
        Returns: the turn; empty with `finish="length"` if the prompt leaves no room.
        """

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        """Sample a turn. It is empty and `refused` where the chat template refuses what the model said before.

        Asked again for the turn that it gave last, as after a fault on the way back, it gives the same one, if
        `sampling.seed` is set.

        Raises: ModelError if the chat template cannot render conversations like this one at all.
        """
        sampling = sampling or self.sampling
        episode = self._episodes.get(episode_id)
        if episode is not None and episode.answered(messages, tools, sampling):
            return episode.action
        try:
            prompt = self._prompt(episode, messages, tools)
        except (ModelError, RecursionError):
            if not self._renders_control(tools) or not has_spoken(messages):
                raise
            return Action(finish_reason="refused")
        turn = episode.turns if episode else 0
        stream = f"{self.seed}/{episode_id}" if sampling.seed is None else str(sampling.seed)
        seed = turn_seed(stream, turn)
        done = await self._sample(episode_id, prompt, sampling, seed)
        if not done.ids:
            self._warn_of_no_room(len(prompt))
        action = self._action(prompt, done, tools)
        closed = bool(done.ids) and done.ids[-1] in self.format.stop_ids
        seen = (*messages, action.to_message())
        self._episodes[episode_id] = _Episode(seen, tools, prompt, done.ids, closed, turn + 1, action, sampling)
        return action

    def _warn_of_no_room(self, num_tokens: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a conversation of %d tokens leaves no room in a context of %d: that turn is empty, and so is each "
                "such turn from now on; raise max_context (model.max_context in a training run) or shorten the prompts",
                num_tokens,
                self.context,
            )

    async def release(self, episode_id: str) -> None:
        self._episodes.pop(episode_id, None)

    async def aclose(self) -> None:
        for episode_id in list(self._episodes):
            await self.release(episode_id)

    def _prompt(
        self, episode: _Episode | None, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> TokenIds:
        """Ids of the conversation: those that were seen and those of new messages, or all of them rendered again."""
        if episode is not None and episode.tools == tools:
            seen = len(episode.messages)
            if len(messages) > seen and tuple(messages[:seen]) == episode.messages:
                more = self.format.render_more(messages[seen:], closed=episode.closed)
                return episode.prompt.followed_by((*episode.sampled, *more))
        return TokenIds.after(None if episode is None else episode.prompt, self.format.render_first(messages, tools))

    def _renders_control(self, tools: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the chat template renders a conversation that no model had a hand in."""
        try:
            self.format.render_first(control_messages(tools), tools)
        except ModelError:
            return False
        return True

    def _action(self, prompt: TokenIds, done: Completion, tools: Sequence[Mapping[str, Any]]) -> Action:
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(done.ids), "cached_tokens": done.cached}
        action = self.format.parse(done.ids, tools)
        finish = "tool_calls" if done.finish == "stop" and action.tool_calls else done.finish
        return structs.replace(
            action,
            prompt_ids=prompt,
            token_ids=done.ids,
            logprobs=done.logprobs,
            versions=done.versions,
            finish_reason=finish,
            usage=usage,
            signals=self._signals(done),
        ).safe()  # as the environment makes it, so that the conversation continues what was seen

    def _signals(self, done: Completion) -> TokenSignals | None:
        if not done.sure:
            return None
        margins, entropies, uniform_kls = zip(*done.sure, strict=True)
        return TokenSignals(_texts(done.ids, self.format.decode), margins, entropies, uniform_kls)


def _texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> tuple[str, ...]:
    """(T,) the text of each id after the one before it: some decoders drop the blank at the beginning of a text."""
    before = ["", *(decode(ids[i : i + 1]) for i in range(len(ids) - 1))]
    return tuple(decode(ids[max(0, i - 1) : i + 1])[len(text) :] for i, text in enumerate(before))


def context_of(model: Any, wanted: int | None) -> int:
    """Most tokens of an episode. Raises: ModelError if the model cannot keep that many positions."""
    config = model.config.get_text_config()
    limit = int(getattr(config, "max_position_embeddings", 0) or _MAX_CONTEXT)
    limit = limit if limit > 0 else _MAX_CONTEXT  # -1 says that there is none (XLNet)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond this length such a model turns all positions by other angles, those in the cache too.
        short = int(rope.get("original_max_position_embeddings") or limit)
        if wanted is not None and wanted > short:
            raise ModelError(
                f"{type(model).__name__} changes the positions of all tokens when a conversation passes {short} tokens "
                f"(longrope), which a cache cannot follow: set max_context to at most {short} (model.max_context in a "
                "training run)"
            )
        limit = min(limit, short)
    return min(wanted or _MAX_CONTEXT, limit)


def format_of(given: ChatFormat | str, model: Any, tokenizer: Any, template: str | None) -> ChatFormat:
    """The chat format of a model: the given one, or that of a name."""
    if isinstance(given, ChatFormat):
        return given
    eos = getattr(model.generation_config, "eos_token_id", None)
    stops = eos if isinstance(eos, list) else [eos] if isinstance(eos, int) else []
    return chat_format(tokenizer, given, chat_template=template, stop_ids=stops)
