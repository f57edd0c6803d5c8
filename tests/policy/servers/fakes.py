"""An inference server of ours over the embedded engine, with faults to switch on; other files add its paths.

They answer as the real ones do (field for field, as far as a sampler reads them); what they sample is exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentrl.policy import adapters, model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.requests import Completion
from agentrl.policy.engine.scheduler import Engine, EngineOptions


@dataclass
class Faults:
    """What is wrong with a server.

    Attributes:
        stale_head: an update leaves the output head as it is, where the server's own model shares it.
        ignores_update: an update answers 200 and changes nothing.
        raw_logprobs: log-probabilities are those before the temperature.
        busy, failing: how many of the next turns are answered with 429 and 500.
        garbage: the body of every turn.
        edit: changes the answer of every turn.
        gone: no connection is accepted.
        pause_lost: a pause takes effect, and its answer does not arrive.
        closing: how many of the next requests meet a connection that the server has just closed.
        cache_kept: how often the cache is not emptied, which is answered with 200.
        load_fails: how often weights are not loaded (500).
        ignores_adapters: adapters are loaded and change nothing.
        slow: weights are loaded when it is set.
        dead: its engine is gone, so turns are answered with 500 and it is not well.
        silent: how many of the next turns are not answered in time.
        refused: status and message of a server that takes no adapters.
        names_nothing: it does not say which weights it has.
    """

    stale_head: bool = False
    ignores_update: bool = False
    raw_logprobs: bool = False
    busy: int = 0
    failing: int = 0
    garbage: bytes | None = None
    edit: Callable[[dict[str, Any]], None] | None = None
    gone: bool = False
    pause_lost: bool = False
    closing: int = 0
    cache_kept: int = 0
    load_fails: int = 0
    ignores_adapters: bool = False
    slow: asyncio.Event | None = None
    dead: bool = False
    silent: int = 0
    refused: tuple[int, str] | None = None
    names_nothing: bool = False


@dataclass
class Seen:
    """What a server was asked: paths in order, the folders of weights, and the bodies of turns."""

    paths: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)


class FakeServer:
    """A server that was started with a model folder."""

    owned_by = ""
    turn_path = ""

    def __init__(self, folder: Path, context: int = 512) -> None:
        self.folder, self.context = folder, context
        self.faults, self.seen = Faults(), Seen()
        self._numbers = 0
        self.start()
        self.app = Starlette(
            routes=[Route(path, self._guarded(answer), methods=[m]) for m, path, answer in self.routes()]
        )

    def start(self) -> None:
        """Begin as a new process does: with the model that it was started with, and without a memory."""
        self.model, tokenizer = model_folder.load(self.folder)
        self._shares_head = bool(self.model.config.tie_word_embeddings)
        head = self.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        self._decode = tokenizer.decode
        self.engine = self._engine(self.model)
        self.name, self.paused = "default", False
        self.adapters: dict[str, Engine] = {}

    def _engine(self, model: Any) -> Engine:
        options = EngineOptions(slots=32, context=self.context)
        return Engine(model, stop_ids=frozenset(), decode=self._decode, options=options)

    def routes(self) -> list[tuple[str, str, Callable[[Request], Any]]]:
        return [("GET", "/v1/models", self._models), ("GET", "/health", self._health)]

    def _guarded(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            self.seen.paths.append(request.url.path)
            if request.url.path == self.turn_path:
                if self.faults.busy:
                    self.faults.busy -= 1
                    return Response(status_code=429, headers={"Retry-After": "0"})
                if self.faults.failing or self.faults.dead:
                    self.faults.failing -= not self.faults.dead
                    return Response(status_code=500)
                if self.faults.garbage is not None:
                    return Response(self.faults.garbage)
            found: Response = await answer(request)
            return found

        return guarded

    async def _models(self, request: Request) -> Response:
        card = {"id": "model", "object": "model", "owned_by": self.owned_by, "max_model_len": self.context}
        loras = [
            {"id": name, "object": "model", "owned_by": self.owned_by, "parent": "model"} for name in self.adapters
        ]
        return JSONResponse({"object": "list", "data": [card, *loras]})

    async def _health(self, request: Request) -> Response:
        return Response(status_code=503 if self.faults.dead else 200)

    def load(self, folder: str) -> None:
        assert self.paused, "weights are loaded while turns are sampled"
        new, _ = model_folder.load(folder)
        if self.faults.ignores_update:
            return
        head = self.model.get_output_embeddings()
        old = head.weight.detach().clone()
        self.model.load_state_dict(new.state_dict())
        if self.faults.stale_head and self._shares_head:
            head.weight.data.copy_(old)
        self.engine.weights_changed()

    def load_adapters(self, folder: str, name: str) -> None:
        assert name not in self.adapters, "the adapters are there already"
        model, _ = model_folder.load(self.folder)
        if not self.faults.ignores_adapters:
            adapters.load(model, Path(folder))
        self.adapters[name] = self._engine(model)

    async def draw(
        self, engine: Engine, ids: list[int], sampling: SamplingParams, seed: int, stop_ids: list[int]
    ) -> Completion:
        while self.paused:
            await asyncio.sleep(0.01)
        self._numbers += 1
        engine.stop_ids = frozenset(stop_ids)
        owner = f"request-{self._numbers}"
        try:
            done = await engine.sample(owner, ids, sampling, seed)
        finally:
            engine.release(owner)
        if not self.faults.raw_logprobs:
            return done
        raw = self.logprobs([*ids, *done.ids], engine)[len(ids) - 1 :]
        return Completion(done.ids, tuple(raw), done.finish, done.cached, done.versions)

    @torch.no_grad()
    def logprobs(self, ids: list[int], engine: Engine | None = None) -> list[float]:
        """Of each id after the first one. Args: engine: by default that of the server's own model."""
        logits = (engine or self.engine).model(input_ids=torch.tensor([ids])).logits[0].float()
        return torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    def answered(self, answer: dict[str, Any]) -> Response:
        if self.faults.edit is not None:
            self.faults.edit(answer)
        return JSONResponse(answer)


class Net(httpx.AsyncBaseTransport):
    """Several servers by their host, without sockets."""

    def __init__(self, **servers: FakeServer) -> None:
        self.servers = servers
        self._transports = {host: httpx.ASGITransport(server.app) for host, server in servers.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        server = self.servers[request.url.host]
        if server.faults.gone:
            raise httpx.ConnectError("connection refused", request=request)
        if server.faults.silent and request.url.path == server.turn_path:
            server.faults.silent -= 1
            raise httpx.ReadTimeout("no answer", request=request)
        if server.faults.closing:
            server.faults.closing -= 1
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        answer = await self._transports[request.url.host].handle_async_request(request)
        if server.faults.pause_lost and "pause" in request.url.path:
            raise httpx.ReadTimeout("no answer", request=request)
        return answer
