"""Continuous batching over key/value slots: many episodes, one model, only new tokens prefilled.

Owns the schedule: which request holds which slot, what is prefilled and when, when a turn ends.
Rendering and parsing belong to the policy; the arithmetic of a forward to `forward_hf`/`forward_lean`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.messages import FinishReason
from agentrl.policy.base import SamplingParams
from agentrl.policy.draw import Draw, draw
from agentrl.policy.forward_hf import HfForward
from agentrl.policy.forward_lean import LeanForward, supports
from agentrl.policy.kv import Ids, KvSlots


@dataclass(frozen=True)
class EngineOptions:
    """Size of the engine.

    Attributes:
        slots: episodes whose keys and values are kept at once.
        context: most tokens of one episode.
        prefill_tokens: most tokens, padding included, of one prefill forward.
    """

    slots: int = 64
    context: int = 2048
    prefill_tokens: int = 16384


@dataclass(frozen=True)
class Completion:
    """One sampled turn.

    Attributes:
        ids: (T,) sampled ids, stop token included.
        logprobs: (T,) nats, see `draw`.
        finish: `stop`, or `length` where a limit cut it off.
        cached: prompt tokens that were not computed again.
        version: of the weights that sampled the first token.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason
    cached: int
    version: int


@dataclass(eq=False)
class _Request:
    owner: str
    prompt: Ids
    sampling: SamplingParams
    uniform: NDArray[np.float64]
    future: asyncio.Future[Completion]
    version: int
    slot: int = -1
    cached: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


# Waiting one step for another request's prefill pays off only if it saves more than this many tokens.
_WORTH_SHARING = 8


class Engine:
    """Samples turns for many episodes at once.

    Args:
        model: a `transformers` causal LM; the learner may train the very same object.
        stop_ids: ids that end a turn.
        decode: ids to text, for stop strings.
        options: sizes.
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        options: EngineOptions = EngineOptions(),
    ) -> None:
        self.model, self.stop_ids, self.decode, self.options = model, stop_ids, decode, options
        self.version = 0
        self.kv = KvSlots(options.slots, options.context)
        self.forward = LeanForward(model, self.kv) if supports(model) else HfForward(model, self.kv)
        self._queue: deque[_Request] = deque()
        self._active: dict[int, _Request] = {}
        self._owner: dict[int, str] = {}
        self._slot_of: dict[str, int] = {}
        self._used_at = np.zeros(options.slots, np.int64)
        self._clock = 0
        self._pump: asyncio.Task[None] | None = None

    # What a policy calls.

    async def sample(self, owner: str, prompt: Sequence[int], sampling: SamplingParams, seed: int) -> Completion:
        """Sample one turn of an episode.

        Args:
            owner: the episode; its slot is kept for its next turn.
            prompt: (P,) ids of the whole context.
            sampling: temperature, limits, stop strings.
            seed: of this turn's random numbers; the result does not depend on what else is running.
        Returns: the turn; empty with `finish="length"` if the prompt leaves no room.
        """
        room = self.options.context - len(prompt)
        count = min(sampling.max_tokens, room)
        if count < 1:
            return Completion((), (), "length", 0, self.version)
        loop = asyncio.get_running_loop()
        uniform = np.random.Generator(np.random.Philox(seed)).random(count)
        request = _Request(owner, np.asarray(prompt, np.int32), sampling, uniform, loop.create_future(), self.version)
        self._queue.append(request)
        if self._pump is None or self._pump.done() or self._pump.get_loop() is not loop:
            self._pump = loop.create_task(self._run())
        return await request.future

    def release(self, owner: str) -> None:
        """Give up an episode's slot; its content still serves others as a prefix."""
        slot = self._slot_of.pop(owner, None)
        if slot is not None:
            del self._owner[slot]

    def weights_changed(self) -> None:
        """The model's weights changed: count a version and drop all keys and values.

        A turn being sampled goes on with the new weights after its context is computed again.
        """
        self.version += 1
        self.kv.clear()
        for request in list(self._active.values()):
            self._queue.appendleft(request)
        self._active.clear()

    @property
    def busy(self) -> int:
        """Requests that are waiting or being sampled."""
        return len(self._queue) + len(self._active)

    # The schedule.

    async def _run(self) -> None:
        try:
            while self.busy:
                self.step()
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)  # it reaches every caller through their futures
        except BaseException:
            self._fail(None)
            raise

    @torch.inference_mode()
    def step(self) -> None:
        """One round: admit what fits, prefill it, then one token for every active turn."""
        self._drop_cancelled()
        if self.model.training:
            self.model.eval()  # dropout would make the logprobs another model's
        decoding = [self._active[slot] for slot in sorted(self._active)]
        admitted = self._admit()
        if decoding or admitted:
            self._take([*decoding, *admitted], self._run_forward(decoding, admitted))

    def _drop_cancelled(self) -> None:
        if any(request.future.done() for request in self._queue):
            self._queue = deque(request for request in self._queue if not request.future.done())
        for slot in [slot for slot, request in self._active.items() if request.future.done()]:
            del self._active[slot]

    def _fail(self, error: Exception | None) -> None:
        for request in (*self._queue, *self._active.values()):
            if request.future.done() or request.future.get_loop().is_closed():
                continue
            if error is None:
                request.future.cancel()
            else:
                request.future.set_exception(error)
        self._queue.clear()
        self._active.clear()

    def _admit(self) -> list[_Request]:
        """Give slots to waiting requests; one that could share a prefill of this round waits for it."""
        admitted: list[_Request] = []
        waiting: deque[_Request] = deque()
        width = 0
        while self._queue:
            request = self._queue.popleft()
            context = _context(request)
            shared = self.kv.shared_prefix(context[:-1])
            new = len(context) - int(shared.max())
            widest = max(width, new)
            if widest * (len(admitted) + 1) > self.options.prefill_tokens and admitted:
                waiting.append(request)
                continue
            if any(_common(context, _context(a)) > len(context) - new + _WORTH_SHARING for a in admitted):
                waiting.append(request)
                continue
            if not self._place(request, shared):
                waiting.append(request)
                break
            width = widest
            admitted.append(request)
        self._queue.extendleft(reversed(waiting))
        return admitted

    def _place(self, request: _Request, shared: NDArray[np.int64]) -> bool:
        """Find a slot, and the best prefix for it."""
        slot = self._slot_of.get(request.owner, -1)
        if slot < 0 or slot in self._active:
            slot = self._free_slot()
            if slot < 0:
                return False
            self._slot_of[request.owner] = slot
            self._owner[slot] = request.owner
        donor = int(shared.argmax())
        count = int(shared[donor])
        if shared[slot] < count:
            self.kv.copy(donor, slot, count)
        else:
            self.kv.length[slot] = shared[slot]
        request.slot = slot
        if not request.ids:
            request.cached = count
        self._active[slot] = request
        return True

    def _free_slot(self) -> int:
        """A slot that nobody owns, else the idle one unused for longest (its owner prefills again)."""
        idle = [slot for slot in range(self.options.slots) if slot not in self._active]
        if not idle:
            return -1
        slot = min(idle, key=lambda s: (s in self._owner, self._used_at[s]))
        owner = self._owner.pop(slot, None)
        if owner is not None:
            del self._slot_of[owner]
        return slot

    def _run_forward(self, decoding: list[_Request], admitted: list[_Request]) -> Tensor:
        """Logits after each request's last token; the slots then hold that token too."""
        rows = np.array([request.slot for request in decoding], np.int64)
        last = np.array([request.ids[-1] for request in decoding], np.int64)
        new = [(request.slot, _context(request)[self.kv.length[request.slot] :]) for request in admitted]
        logits = self.forward(rows, last, new)
        self.kv.ids[rows, self.kv.length[rows]] = last
        self.kv.length[rows] += 1
        for slot, ids in new:
            self.kv.write_ids(slot, int(self.kv.length[slot]), ids)
        return logits

    def _take(self, requests: list[_Request], logits: Tensor) -> None:
        """Draw the next token of each request, and finish those that end."""
        self._clock += 1
        how = Draw(
            np.array([r.sampling.temperature for r in requests]),
            np.array([r.sampling.top_p for r in requests]),
            np.array([r.sampling.top_k for r in requests]),
            np.array([r.uniform[len(r.ids)] for r in requests]),
        )
        for request, token, logprob in zip(requests, *draw(logits, how), strict=True):
            request.ids.append(token)
            request.logprobs.append(logprob)
            finish = self._finish_of(request, token)
            if finish is not None:
                self._finish(request, finish)

    def _finish_of(self, request: _Request, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return "stop"
        if request.sampling.stop:
            tail = self.decode(request.ids[-32:])
            if any(stop in tail for stop in request.sampling.stop):
                return "stop"
        return "length" if len(request.ids) == len(request.uniform) else None

    def _finish(self, request: _Request, finish: FinishReason) -> None:
        del self._active[request.slot]
        self._used_at[request.slot] = self._clock
        if not request.future.done():
            done = Completion(tuple(request.ids), tuple(request.logprobs), finish, request.cached, request.version)
            request.future.set_result(done)


def _context(request: _Request) -> Ids:
    if not request.ids:
        return request.prompt
    return np.concatenate([request.prompt, np.asarray(request.ids, np.int32)])


def _common(a: Ids, b: Ids) -> int:
    n = min(len(a), len(b))
    same = a[:n] == b[:n]
    return n if same.all() else int(same.argmin())
