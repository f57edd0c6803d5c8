"""The conformance suite: what every backend must do and must prevent. Owns running the probes; the topics have them.

report = await check_sandbox(make_backend("bubblewrap"))
assert not report.failures, report.text
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass

from agentrl.sandbox.base import Backend
from agentrl.sandbox.conformance.kernel_memory import probe as kernel
from agentrl.sandbox.conformance.leftovers import probe as state
from agentrl.sandbox.conformance.limits import probe as limits
from agentrl.sandbox.conformance.network import probe as network
from agentrl.sandbox.conformance.probes import Probe
from agentrl.sandbox.conformance.promises import probe as contract
from agentrl.sandbox.conformance.tampering import probe as tampering
from agentrl.sandbox.conformance.visible_host import probe as reach

TOPICS: dict[str, tuple[Probe, ...]] = {
    "contract": tuple(contract.found),
    "kernel": tuple(kernel.found),
    "limits": tuple(limits.found),
    "network": tuple(network.found),
    "reach": tuple(reach.found),
    "state": tuple(state.found),
    "tampering": tuple(tampering.found),
}
"""Topic -> probes."""


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe; `failure` is empty if the backend passed."""

    topic: str
    name: str
    claim: str
    failure: str = ""


@dataclass(frozen=True)
class SandboxReport:
    """The results of all probes that were run."""

    results: tuple[ProbeResult, ...]

    @property
    def failures(self) -> tuple[ProbeResult, ...]:
        return tuple(result for result in self.results if result.failure)

    @property
    def text(self) -> str:
        """One line for each probe."""
        rows = [
            f"{'FAILED' if result.failure else 'ok':<7}{result.topic}/{result.name}: {result.failure or result.claim}"
            for result in self.results
        ]
        return "\n".join(rows)


async def check_sandbox(backend: Backend, *, topics: Iterable[str] | None = None, slow: bool = True) -> SandboxReport:
    """Run the probes against a backend, one after the other.

    Args:
        backend: the backend to check; its sandboxes must run on this machine, because some probes look from the host.
        topics: names in `TOPICS`; default: all.
        slow: whether to run probes that take more than a few seconds.
    """
    results = []
    for topic in topics or TOPICS:
        for probe in TOPICS[topic]:
            if slow or not probe.slow:
                results.append(ProbeResult(topic, probe.name, probe.claim, await _failure(probe, backend)))
    return SandboxReport(tuple(results))


async def _failure(probe: Probe, backend: Backend) -> str:
    # A backend under test may fail in any way, and any failure is a result.
    try:
        return await probe.run(backend)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"
