"""An SGLang server of ours, after the source of SGLang 0.5.23; it was never compared with a running one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentrl.policy.base import SamplingParams
from tests.policy.servers.fakes import FakeServer


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
        return Response(status_code=503 if self.paused or self.faults.dead else 200)  # its health is whether it samples

    async def _info(self, request: Request) -> Response:
        name = None if self.faults.names_nothing else self.name
        return JSONResponse({"model_path": str(self.folder), "is_generation": True, "weight_version": name})
