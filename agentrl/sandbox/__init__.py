"""Isolated places to run code that nobody trusts. Owns the contract and its backends, not the environments that use it.

The files of this folder are the contract: `base` (classes), `report`, `values`, `allow_list`, `registry` and `pool`.
The folders below it are the implementation. Environments with a sandbox are in `agentrl.sandboxed`, tools that run code
in `agentrl.tools`. docs/security.md says what each backend protects against, and what it does not.

    backend = make_backend()  # bubblewrap, if it is installed
    async with await backend.start(SandboxSpec()) as sandbox:
        result = await sandbox.run_python("print(6 * 7)")
"""

from agentrl.sandbox.base import (
    Backend,
    CallResult,
    ExecResult,
    ExecStatus,
    FileInfo,
    Network,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxLimits,
    SandboxLost,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.registry import backend_names, make_backend, register_backend
from agentrl.sandbox.report import Check, Report
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
    "SandboxLost",
    "SandboxSpec",
    "Snapshot",
    "backend_names",
    "make_backend",
    "register_backend",
    "same_value",
]
