"""A vLLM and an SGLang server of ours: the documented endpoints over the embedded engine, with faults to switch on.

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
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agentrl.policy import adapters, model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Completion, Engine, EngineOptions


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
                if self.faults.failing:
                    self.faults.failing -= 1
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
        return Response()

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


class FakeVllm(FakeServer):
    """vLLM with VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs."""

    owned_by = "vllm"
    turn_path = "/v1/completions"

    def routes(self) -> list[tuple[str, str, Callable[[Request], Any]]]:
        return [
            *super().routes(),
            ("POST", "/v1/completions", self._complete),
            ("POST", "/pause", self._pause),
            ("POST", "/resume", self._resume),
            ("POST", "/collective_rpc", self._rpc),
            ("POST", "/reset_prefix_cache", self._reset),
            ("POST", "/update_weight_version", self._set_name),
            ("GET", "/weight_info", self._name),
            ("POST", "/v1/load_lora_adapter", self._load_adapters),
            ("POST", "/v1/unload_lora_adapter", self._unload_adapters),
        ]

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.seen.turns.append(body)
        how = SamplingParams(
            body["temperature"], body["top_p"], body["top_k"], body["max_tokens"], tuple(body.get("stop", ()))
        )
        ids = body["prompt"]
        engine = self.engine if body["model"] == "model" else self.adapters.get(body["model"])
        if engine is None:
            message = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": message, "type": "NotFoundError"}}, status_code=404)
        done = await self.draw(engine, ids, how, body["seed"], body.get("stop_token_ids", []))
        choice = {
            "index": 0,
            "text": "",
            "token_ids": list(done.ids),
            "prompt_token_ids": ids,
            "finish_reason": done.finish,
            "stop_reason": None,
            "prompt_logprobs": None,
            "logprobs": {
                "tokens": [f"token_id:{token}" for token in done.ids],
                "token_logprobs": list(done.logprobs),
                "text_offset": [],
                "top_logprobs": [],
            },
        }
        if body.get("prompt_logprobs") is not None:
            entries = zip(ids[1:], self.logprobs(ids, engine), strict=True)
            choice["prompt_logprobs"] = [
                None,
                *({str(token): {"logprob": logprob, "rank": 1, "decoded_token": ""}} for token, logprob in entries),
            ]
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": len(done.ids),
            "total_tokens": len(ids) + len(done.ids),
        }
        return self.answered(
            {"id": "cmpl-1", "object": "text_completion", "model": "model", "choices": [choice], "usage": usage}
        )

    async def _pause(self, request: Request) -> Response:
        self.paused = True
        return JSONResponse({"status": "paused"})

    async def _resume(self, request: Request) -> Response:
        self.paused = False
        return JSONResponse({"status": "resumed"})

    async def _rpc(self, request: Request) -> Response:
        body = await request.json()
        assert body["method"] == "reload_weights"
        if self.faults.load_fails:
            self.faults.load_fails -= 1
            return Response(status_code=500)
        self.seen.folders.append(body["kwargs"]["weights_path"])
        if self.faults.slow:
            await self.faults.slow.wait()
        self.load(body["kwargs"]["weights_path"])
        return JSONResponse({"results": [None]})

    async def _reset(self, request: Request) -> Response:
        assert self.paused, "the cache is emptied while turns are sampled"
        kept, self.faults.cache_kept = self.faults.cache_kept > 0, max(0, self.faults.cache_kept - 1)
        return JSONResponse({"success": not kept})

    async def _load_adapters(self, request: Request) -> Response:
        body = await request.json()
        self.load_adapters(body["lora_path"], body["lora_name"])
        return PlainTextResponse(f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def _unload_adapters(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        del self.adapters[name]
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _set_name(self, request: Request) -> Response:
        self.name = (await request.json())["new_version"]
        return JSONResponse({"success": True, "new_version": self.name})

    async def _name(self, request: Request) -> Response:
        if self.faults.names_nothing:
            return Response(status_code=404)
        return JSONResponse({"weight_version": self.name})


class FakeSglang(FakeServer):
    """SGLang, as its documentation describes it."""

    owned_by = "sglang"
    turn_path = "/generate"

    def routes(self) -> list[tuple[str, str, Callable[[Request], Any]]]:
        return [
            *super().routes(),
            ("POST", "/generate", self._generate),
            ("POST", "/pause_generation", self._pause),
            ("POST", "/continue_generation", self._continue),
            ("POST", "/update_weights_from_disk", self._update),
            ("GET", "/get_model_info", self._info),
            ("POST", "/load_lora_adapter", self._load_adapters),
            ("POST", "/unload_lora_adapter", self._unload_adapters),
        ]

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        self.seen.turns.append(body)
        given = body["sampling_params"]
        how = SamplingParams(given["temperature"], given["top_p"], max(0, given["top_k"]), given["max_new_tokens"])
        ids, adapters_name = body["input_ids"], body.get("lora_path")
        if adapters_name is not None and adapters_name not in self.adapters:
            message = f"The following requested LoRA adapters are not loaded: {adapters_name}"
            return JSONResponse({"error": {"message": message}}, status_code=400)
        engine = self.engine if adapters_name is None else self.adapters[adapters_name]
        done = await self.draw(engine, ids, how, given["sampling_seed"], given.get("stop_token_ids", []))
        meta: dict[str, Any] = {
            "id": "1",
            "finish_reason": {"type": done.finish},
            "prompt_tokens": len(ids),
            "completion_tokens": len(done.ids),
            "cached_tokens": done.cached,
            "weight_version": None if self.faults.names_nothing else self.name,
            "output_token_logprobs": [[lp, token, None] for lp, token in zip(done.logprobs, done.ids, strict=True)],
        }
        if body.get("logprob_start_len") == 0:
            entries = zip([None, *self.logprobs(ids, engine)], ids, strict=True)
            meta["input_token_logprobs"] = [[lp, token, None] for lp, token in entries]
        return self.answered({"text": "", "output_ids": list(done.ids), "meta_info": meta})

    async def _pause(self, request: Request) -> Response:
        self.paused = True
        return JSONResponse({"status": "ok"})

    async def _continue(self, request: Request) -> Response:
        self.paused = False
        return PlainTextResponse("resumed")

    async def _update(self, request: Request) -> Response:
        body = await request.json()
        if self.faults.load_fails:
            self.faults.load_fails -= 1
            return Response(status_code=500)
        try:
            self.load(body["model_path"])
        except Exception as error:
            return JSONResponse({"success": False, "message": str(error)}, status_code=400)
        self.name = body["weight_version"]
        return JSONResponse(
            {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}
        )

    async def _load_adapters(self, request: Request) -> Response:
        body = await request.json()
        self.load_adapters(body["lora_path"], body["lora_name"])
        return JSONResponse({"success": True, "error_message": None, "loaded_adapters": {}})

    async def _unload_adapters(self, request: Request) -> Response:
        del self.adapters[(await request.json())["lora_name"]]
        return JSONResponse({"success": True, "error_message": None, "loaded_adapters": {}})

    async def _health(self, request: Request) -> Response:
        return Response(status_code=503 if self.paused else 200)  # its health is whether it samples

    async def _info(self, request: Request) -> Response:
        name = None if self.faults.names_nothing else self.name
        return JSONResponse({"model_path": str(self.folder), "is_generation": True, "weight_version": name})


class Net(httpx.AsyncBaseTransport):
    """Several servers by their host, without sockets."""

    def __init__(self, **servers: FakeServer) -> None:
        self.servers = servers
        self._transports = {host: httpx.ASGITransport(server.app) for host, server in servers.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        server = self.servers[request.url.host]
        if server.faults.gone:
            raise httpx.ConnectError("connection refused", request=request)
        if server.faults.closing:
            server.faults.closing -= 1
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        answer = await self._transports[request.url.host].handle_async_request(request)
        if server.faults.pause_lost and "pause" in request.url.path:
            raise httpx.ReadTimeout("no answer", request=request)
        return answer
