"""Isolated places to run code that nobody trusts. Owns the contract, its checker and its backends.

backend = make_backend()                      # bubblewrap on Linux
async with await backend.start(SandboxSpec()) as sandbox:
    result = await sandbox.run_python("print(6 * 7)")
"""

from agentrl.sandbox.base import (
    Backend,
    CallResult,
    Check,
    ExecResult,
    ExecStatus,
    FileInfo,
    Network,
    Report,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.registry import backend_names, make_backend, register_backend
from agentrl.sandbox.values import PlainValue, same_value

__all__ = [
    "Backend",
    "CallResult",
    "Check",
    "ExecResult",
    "ExecStatus",
    "FileInfo",
    "Network",
    "PlainValue",
    "Report",
    "Sandbox",
    "SandboxError",
    "SandboxFault",
    "SandboxLimits",
    "SandboxSpec",
    "Snapshot",
    "backend_names",
    "make_backend",
    "register_backend",
    "same_value",
]
