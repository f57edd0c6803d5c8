"""Grading a function that a model wrote: inputs go into the sandbox, and the values that come out are compared here.

Every case runs in a new process. Expected values never enter the sandbox, so code in it cannot read them. A value
is right only if it has the same plain types as the expected one at every depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentrl.sandbox.base import Sandbox, SandboxError, SandboxLimits
from agentrl.sandbox.values import PlainValue, same_value

CASE_LIMITS = SandboxLimits(wall_s=5.0, cpu_s=2.0, memory_bytes=256 << 20, pids=16, output_bytes=4096)


@dataclass(frozen=True)
class Case:
    """One hidden test: arguments, and what a correct function returns for them."""

    args: tuple[PlainValue, ...]
    expected: PlainValue


async def passes(
    sandbox: Sandbox, source: str, function: str, cases: Iterable[Case], *, limits: SandboxLimits = CASE_LIMITS
) -> bool:
    """Whether a function returns the expected value in every case; the first failure ends the grading.

    Args:
        sandbox: where the source runs; all cases share its work folder.
        source: source code of a module.
        function: name of the function in that module.
    Raises: SandboxFault if the sandbox failed, so that the function could not be judged.
    """
    for case in cases:
        try:
            result = (await sandbox.call(source, function, case.args, limits=limits)).checked()
        except SandboxError:  # the source cannot be sent
            return False
        if not (result.ok and result.returned and same_value(result.value, case.expected)):
            return False
    return True
