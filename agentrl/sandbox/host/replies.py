"""The answer of a worker or a session as a result of the contract. Owns the conversion; knows no connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from agentrl.sandbox.base import CallResult, ExecResult, SandboxLimits
from agentrl.sandbox.host.session_port import Answer
from agentrl.sandbox.values import ValueFormError, decode
from agentrl.sandbox.worker.programs import OUT_OF_MEMORY

_Result = TypeVar("_Result", bound=ExecResult)


@dataclass(frozen=True)
class Reply:
    """A worker's answer and the seconds it took."""

    header: dict[str, Any]
    parts: list[bytes]
    wall_s: float


def answer_header(answer: Answer, limits: SandboxLimits) -> dict[str, Any]:
    """The header of a reply, made from what a session itself answered."""
    header = {"exit_code": answer.exit_code, "truncated": answer.truncated}
    if answer.exit_code == OUT_OF_MEMORY:
        return {"status": "oom", "detail": too_much_memory(limits), **header}
    return {"status": "nonzero" if answer.exit_code else "ok", **header}


def too_much_memory(limits: SandboxLimits) -> str:
    """The detail of a result with the status `oom`."""
    return f"more than {limits.memory_bytes} bytes of memory"


def result_of(kind: type[_Result], reply: Reply, **more: Any) -> _Result:
    """A reply as a result of that class; `more` are its further fields."""
    header, parts = reply.header, reply.parts
    return kind(
        status=header["status"],
        exit_code=header.get("exit_code"),
        stdout=parts[0],
        stderr=parts[1],
        truncated=bool(header.get("truncated")),
        wall_s=reply.wall_s,
        cpu_s=float(header.get("cpu_s", 0.0)),
        max_rss_bytes=int(header.get("max_rss_bytes", 0)),
        detail=str(header.get("detail", "")),
        **more,
    )


def call_result(reply: Reply) -> CallResult:
    """A reply to a call as a result. It has a value only if the function returned one, in the form of plain values."""
    claim = reply.parts[2] if len(reply.parts) > 2 else b""
    if reply.header["status"] == "ok" and claim[:1] == b"R":
        try:
            return result_of(CallResult, reply, value=decode(memoryview(claim)[1:]), returned=True)
        except ValueFormError as error:
            return result_of(CallResult, reply, raised=str(error))
    raised = claim[1:].decode("utf-8", "replace") if claim[:1] == b"E" else ""
    if reply.header["status"] == "ok":
        reply.header.update(status="nonzero", detail="it ended without returning a value")
    return result_of(CallResult, reply, raised=raised)
