"""A vLLM server of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentrl.policy.base import SamplingParams
from tests.policy.servers.fakes import FakeServer


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
        if self.faults.refused is not None:
            status, message = self.faults.refused
            return JSONResponse({"error": {"message": message, "code": status}}, status_code=status)
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
