"""Grading a function that a model wrote: inputs go into the sandbox, values come out, judged here.

Every case runs in a process of its own. Expected values never enter the sandbox, so nothing in it can be made to
agree with them; a value counts only if it is of the same plain types throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentrl.sandbox.base import Sandbox, SandboxError, SandboxLimits
from agentrl.sandbox.values import PlainValue, same_value

CASE_LIMITS = SandboxLimits(wall_s=5.0, cpu_s=2.0, memory_bytes=256 << 20, pids=16, output_bytes=4096)


@dataclass(frozen=True)
class Case:
    """One hidden test: arguments, and what a right function returns for them."""

    args: tuple[PlainValue, ...]
    expected: PlainValue


async def passes(
    sandbox: Sandbox, source: str, function: str, cases: Iterable[Case], *, limits: SandboxLimits = CASE_LIMITS
) -> bool:
    """Whether a function returns what is expected in every case; the first failure ends the grading.

    Args:
        sandbox: where the source runs; its work folder is shared by the cases.
        source: a module.
        function: name of the function in it.
    Raises: SandboxFault where the sandbox failed, which is no verdict.
    """
    for case in cases:
        try:
            result = (await sandbox.call(source, function, case.args, limits=limits)).checked()
        except SandboxError:  # a source that cannot even be sent
            return False
        if not (result.ok and result.returned and same_value(result.value, case.expected)):
            return False
    return True
