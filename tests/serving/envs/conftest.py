"""A server of the shop, and one of an environment whose code raises what it is told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.trajectory import EnvRef

SHOP = "agentrl/Shop-v0"
ODD = "tests.serving.envs.odd:Odd"


@pytest.fixture(scope="module")
def shop() -> Iterator[EnvServer]:
    with EnvServer(EnvRef(SHOP), ServeOptions(port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def odd() -> Iterator[EnvServer]:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0)) as server:
        yield server
