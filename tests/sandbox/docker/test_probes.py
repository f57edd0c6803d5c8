"""Every probe of the conformance suite, on docker; and the contract again where the worker is reached over stdio."""

from __future__ import annotations

import pytest

from agentrl.sandbox.conformance.check_sandbox import TOPICS
from agentrl.sandbox.docker.backend import Docker

pytestmark = pytest.mark.docker


def _cases(topics):
    return [pytest.param(probe, id=f"{topic}-{probe.name}") for topic in topics for probe in TOPICS[topic]]


@pytest.mark.parametrize("probe", _cases(TOPICS))
async def test_docker_contains(probe):
    assert await probe.run(Docker()) == ""


@pytest.mark.parametrize("probe", _cases(["contract", "state"]))
async def test_docker_over_stdio_contains(probe):
    assert await probe.run(Docker(transport="stdio")) == ""
