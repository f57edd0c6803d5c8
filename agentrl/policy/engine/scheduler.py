"""Continuous batching over key/value slots: many episodes, one model, only new tokens prefilled.

Owns the schedule: which request holds which slot, what is prefilled and when, when a turn ends.
Rendering and parsing belong to the policy; the arithmetic of a forward to `forward_hf`/`forward_lean`.

Every round takes in the requests that fit, and feeds the model the new tokens of those together with
one token of every turn that is being sampled. A turn that ends frees its place in the same round; its
slot keeps its keys and values for the episode's next turn, until another request needs the slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.messages import FinishReason
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine import exact
from agentrl.policy.engine.choice import State, forward_again, forward_of
from agentrl.policy.engine.prefixes import Donors, Prefixes
from agentrl.policy.engine.requests import Completion, OnToken, Request
from agentrl.policy.engine.slots import Ids, KvSlots, OwnCaches, SlotOwners
from agentrl.policy.engine.token_sampling import DrawTable, draw
from agentrl.policy.engine.token_signals import ranked, signals_of
from agentrl.policy.kept_memory import FreedMemory


@dataclass(frozen=True)
class EngineOptions:
    """Size of the engine.

    Attributes:
        slots: most episodes whose keys and values are kept at once, and most turns sampled at once.
        context: most tokens of one episode. Memory grows up to slots x context, as it is needed.
        prefill_tokens: most tokens, padding included, that are prefilled in one round.
        chunk_tokens: most tokens that are prefilled in a round in which turns are being sampled. What is left of a
            longer prompt follows in the next rounds, so that no turn waits for all of it.
        lean: use the lean forward where the model's class is known; the model's own otherwise.
        exact: sample each turn with the same bits, whatever else is sampled at the same time. None does so where it is
            known to be possible: on a CPU, with the lean forward.
        state: where the state of an episode is kept. Slots of keys and values are much faster, where a model has no
            other state.
    """

    slots: int = 64
    context: int = 2048
    prefill_tokens: int = 16384
    chunk_tokens: int = 1024
    lean: bool = True
    exact: bool | None = None
    state: State = "slots"

    def __post_init__(self) -> None:
        if min(self.slots, self.context, self.prefill_tokens, self.chunk_tokens) < 1:
            raise ValueError(f"slots, context, prefill_tokens and chunk_tokens must be at least 1, got {self}")


# Waiting one round for another request's prefill pays off only if it saves at least this many tokens.
_WORTH_SHARING = 8
# In one round, as many waiting requests for each slot are looked at.
_LOOKS = 4


class Engine:
    """Samples turns for many episodes at once, on one event loop.

    Args:
        model: a `transformers` causal LM; the learner may train the same object. It is put into
            evaluation mode while it samples.
        stop_ids: ids that end a turn.
        decode: ids to text, for stop strings.
        options: sizes.
    Raises: ModelError if the model keeps other state than `options.state` says.
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
        kind = KvSlots if options.state == "slots" else OwnCaches
        self.kv = kind(options.slots, -(-options.context // exact.CONTEXTS) * exact.CONTEXTS)
        self._threads = torch.get_num_threads()
        lean, must = options.lean, options.exact
        self.forward, self.exact = forward_of(model, self.kv, lean=lean, must=must, state=options.state)
        self.owners = SlotOwners(options.slots)
        self._draws = DrawTable(options.slots, options.context)
        self._freed = FreedMemory()
        self._queue: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._pump: asyncio.Task[None] | None = None

    # What a policy calls.

    async def sample(
        self,
        owner: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        seed: int,
        *,
        on_token: OnToken | None = None,
    ) -> Completion:
        """Sample one turn of an episode. Cancelling it frees its place.

        Args:
            owner: the episode; its slot is kept for its next turn.
            prompt: (P,) ids of the whole context.
            sampling: temperature, limits, stop strings.
            seed: of this turn's random numbers; the result does not depend on what else is running, up to the
                rounding of float32 where the engine is not `exact`.
            on_token: called with each id and its logprob as soon as it is sampled; it must not raise.
        Returns: the turn; empty with `finish="length"` if the prompt leaves no room.
        Raises: ValueError if the prompt is empty.
        """
        if not len(prompt):
            raise ValueError("a prompt needs at least one token")
        count = min(sampling.max_tokens, self.options.context - len(prompt))
        if count < 1:
            return Completion((), (), "length", 0, ())
        loop = asyncio.get_running_loop()
        uniform = np.random.Generator(np.random.Philox(seed)).random(count)
        request = Request(owner, np.asarray(prompt, np.int32), sampling, uniform, loop.create_future(), on_token)
        self._queue.append(request)
        if self._pump is None or self._pump.done() or self._pump.get_loop() is not loop:
            self._pump = loop.create_task(self._run())
        return await request.future

    def has_begun(self, owner: str) -> bool:
        """Whether an episode has a slot: what it last asked for was taken in, if it has not been released since."""
        return self.owners.slot_of(owner) >= 0

    def release(self, owner: str) -> None:
        """Give up an episode's slot; its content may still serve others as a prefix."""
        self.owners.release(owner)

    def weights_changed(self, *, drop_cache: bool = True) -> None:
        """The model's weights changed: count a version.

        Args:
            drop_cache: forget all keys and values; turns being sampled continue after their context
                is computed again. False keeps what the old weights computed: cheaper in asynchronous
                training, but logprobs are then those of neither version.
        """
        self.version += 1
        if not drop_cache:
            return
        self.kv.clear()
        self._requeue()

    def forget(self) -> None:
        """Free all keys and values, and forget who owned which slot, as a new engine would begin.

        What is free in the process goes back to the system, at most every few seconds.
        Turns being sampled continue after their context is computed again.
        """
        self._requeue()
        self.kv.drop()
        self.owners = SlotOwners(self.options.slots)
        self._freed.give_back()

    def _requeue(self) -> None:
        self._queue.extendleft(reversed(self._active.values()))
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
        """One round: admit what fits, feed the model, draw one token for every active turn."""
        self._drop_cancelled()
        if self.model.training:
            self.model.eval()  # dropout would make the logprobs another model's
        if self.exact and torch.get_num_threads() != self._threads:
            self._follow_threads()
        decoding = [self._active[slot] for slot in sorted(self._active) if not len(self._active[slot].rest)]
        filling = [request for request in self._active.values() if len(request.rest)]
        room = self.options.chunk_tokens if decoding else self.options.prefill_tokens
        filling += self._admit(filling, room - sum(len(request.rest) for request in filling))
        if decoding or filling:
            self._take(*self._feed(decoding, filling, room))

    def _follow_threads(self) -> None:
        """Choose anew, and forget all keys and values: exact shapes hold for the threads that they were found with."""
        self._requeue()
        self.kv.clear()
        lean = self.options.lean
        self.forward, self.exact = forward_again(self.model, self.kv, self._threads, lean=lean, must=self.options.exact)
        self._threads = torch.get_num_threads()

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
        self.kv.clear()  # a forward may have stopped half-way

    def _admit(self, filling: Sequence[Request], room: int) -> list[Request]:
        """Give slots to waiting requests, in order; one that can share a prefill of this round waits for it.

        Args:
            filling: requests with a slot whose context is not fed whole yet.
            room: tokens that may be prefilled besides theirs; the last request may have more.
        """
        admitted: list[Request] = []
        waiting: list[Request] = []
        begun = Prefixes()
        for number, request in enumerate(filling):
            begun.add(number, request.context)
        widest = 0
        looks = min(len(self._queue), _LOOKS * self.options.slots) if room > 0 else 0
        donors = Donors(self.kv, looks) if looks else None
        try:
            while donors is not None and looks and room > 0 and len(self._active) < self.options.slots:
                request, looks = self._queue.popleft(), looks - 1
                context = request.context
                donor, shared = donors.best(context[:-1])
                new = min(len(context) - shared, room)
                too_much = max(widest, new) * (len(admitted) + 1) > self.options.prefill_tokens
                is_first = not (admitted or filling)
                sharing = self.kv.parts and not is_first and begun.longest(context)[0] >= shared + _WORTH_SHARING
                if (admitted and too_much) or sharing:
                    waiting.append(request)
                    continue
                self._place(request, context, donor, shared)
                widest, room = max(widest, new), room - new
                admitted.append(request)
                begun.add(len(filling) + len(admitted), context)
        finally:
            self._queue.extendleft(reversed(waiting))
        return admitted

    def _place(self, request: Request, context: Ids, donor: int, shared: int) -> None:
        """Give the request a slot, and that slot the longest prefix that any slot holds: `shared` tokens of `donor`."""
        slot = self.owners.slot_of(request.owner)
        if slot < 0 or slot in self._active:
            slot = self.owners.take(request.owner, self._active)
        request.slot, self._active[slot] = slot, request  # before memory is asked for, which may fail
        own = self.kv.shared_by(slot, context[:-1])
        if own < shared:
            self.kv.copy(donor, slot, shared)
        else:
            self.kv.length[slot] = own
        request.rest = context[self.kv.length[slot] :]
        if not request.ids:
            request.cached = max(own, shared)
        self._draws.set(slot, request.sampling, request.uniform)

    def _feed(self, decoding: list[Request], filling: Sequence[Request], room: int) -> tuple[list[Request], Tensor]:
        """Feed a token of each decoding request, and up to `room` of the others in their order.

        Returns: the requests that are fed whole, and the logits after the last token of each.
        """
        rows = np.array([request.slot for request in decoding], np.int64)
        last = np.array([request.ids[-1] for request in decoding], np.int64)
        fed: list[tuple[Request, Ids]] = []
        for request in filling:
            if room > 0:
                fed.append((request, request.rest[:room]))
                room -= len(fed[-1][1])
        logits = self.forward(rows, last, [(request.slot, ids) for request, ids in fed])
        self.kv.ids[rows, self.kv.length[rows]] = last
        self.kv.length[rows] += 1
        for request, ids in fed:
            self.kv.write_ids(request.slot, ids)
            request.rest = request.rest[len(ids) :]
        whole = [number for number, request in enumerate([*decoding, *(r for r, _ in fed)]) if not len(request.rest)]
        requests = [*decoding, *(request for request, _ in fed if not len(request.rest))]
        return requests, logits if len(whole) == len(logits) else logits[whole]

    def _take(self, requests: list[Request], logits: Tensor) -> None:
        """Draw the next token of each request, and finish those that end."""
        if not requests:
            return
        how = self._draws.rows([r.slot for r in requests], [len(r.ids) for r in requests])
        tokens, logprobs = draw(logits, how)
        for row, request in enumerate(requests):
            if request.sampling.first_rank is not None and not request.ids:
                tokens[row], logprobs[row] = ranked(logits[row], request.sampling.first_rank)
        _note(requests, logits, tokens)
        for request, token, logprob in zip(requests, tokens, logprobs, strict=True):
            request.ids.append(token)
            request.logprobs.append(logprob)
            request.versions.append(self.version)
            if request.on_token is not None:
                request.on_token(token, logprob)
            finish = self._finish_of(request, token)
            if finish is not None:
                self._finish(request, finish)

    def _finish_of(self, request: Request, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return "stop"
        stops = request.sampling.stop
        if stops:
            # Every token is at least a byte, so no stop string that ends here began before this.
            tail = self.decode(request.ids[-max(len(stop.encode()) for stop in stops) :])
            if any(stop in tail for stop in stops):
                return "stop"
        return "length" if len(request.ids) == len(request.uniform) else None

    def _finish(self, request: Request, finish: FinishReason) -> None:
        del self._active[request.slot]
        self.owners.touch(request.slot)
        if not request.future.done():
            done = Completion(
                tuple(request.ids),
                tuple(request.logprobs),
                finish,
                request.cached,
                tuple(request.versions),
                tuple(request.sure),
            )
            request.future.set_result(done)


def _note(requests: Sequence[Request], logits_BV: Tensor, tokens: Sequence[int]) -> None:
    """Note how sure the model is of the tokens of those requests that ask for it."""
    asking = [row for row, request in enumerate(requests) if request.sampling.signals]
    if not asking:
        return
    chosen = logits_BV if len(asking) == len(requests) else logits_BV[asking]
    for row, sure in zip(asking, signals_of(chosen, [tokens[row] for row in asking]), strict=True):
        requests[row].sure.append(sure)
