"""Every probe of the conformance suite, on bubblewrap; and a sandbox without walls, which many of them must catch."""

from __future__ import annotations

import pytest

from agentrl.sandbox import make_backend
from agentrl.sandbox.conformance.check_sandbox import TOPICS

PROBES = [(topic, probe) for topic, probes in TOPICS.items() for probe in probes]


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(probe, id=f"{topic}-{probe.name}", marks=pytest.mark.slow if probe.slow else ())
        for topic, probe in PROBES
    ],
)
async def test_bubblewrap_contains(probe):
    assert await probe.run(make_backend("bubblewrap")) == ""
