"""What an environment offers to MCP clients in addition to tools: by MCP's own client, where `mcp` is installed."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.trajectory import EnvRef

pytest.importorskip("mcp_types")
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from agentrl.serving.mcp.offers import Part
from agentrl.serving.mcp.parts import content_of

FIXTURE = "agentrl.conform.mcp_fixture:McpFixture"
SHOP = "agentrl/Shop-v0"


def episode(server: EnvServer) -> str:
    opened = httpx.post(f"{server.url}/mcp/episodes", json={}, headers={"authorization": f"Bearer {server.token}"})
    return server.url + str(opened.json()["path"])


@pytest.fixture(scope="module")
def fixture() -> Iterator[EnvServer]:
    with EnvServer(EnvRef(FIXTURE), ServeOptions(port=0)) as server:
        yield server


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_results_prompts_and_resources(fixture: EnvServer, mode: str) -> None:
    async with Client(episode(fixture), mode=mode) as client:
        mixed = (await client.call_tool("test_multiple_content_types", {})).content
        assert [part.type for part in mixed] == ["text", "image", "resource"]
        assert mixed[0].text == "Multiple content types test:"
        sound = (await client.call_tool("test_audio_content", {})).content[0]
        assert (sound.type, sound.mime_type) == ("audio", "audio/wav")
        failed = await client.call_tool("test_error_handling", {})
        assert failed.is_error
        assert "intentionally returns an error" in failed.content[0].text

        assert [prompt.name for prompt in (await client.list_prompts()).prompts][:2] == ["task", "test_simple_prompt"]
        given = {"arg1": "a", "arg2": "b"}
        filled = await client.get_prompt("test_prompt_with_arguments", given)
        assert filled.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"
        with pytest.raises(MCPError, match="takes the arguments arg1, arg2"):
            await client.get_prompt("test_prompt_with_arguments", {"arg1": "a"})

        assert len((await client.list_resources()).resources) == 2
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "test://template/{id}/data"
        (read,) = (await client.read_resource("test://template/7/data")).contents
        assert '"Data for ID: 7"' in read.text
        with pytest.raises(MCPError, match="no such resource"):
            await client.read_resource("test://template/7/8/data")


async def test_an_environment_that_offers_nothing_more() -> None:
    with EnvServer(EnvRef(SHOP), ServeOptions(port=0)) as server:
        async with Client(episode(server)) as client:
            assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["task"]
            assert (await client.list_resources()).resources == []


def test_bytes_that_are_no_picture_and_no_sound_need_a_name() -> None:
    with pytest.raises(ValueError, match="need a `uri`"):
        content_of(Part(content=b"x", mime_type="application/zip"))
    assert content_of(Part(content=b"x", mime_type="application/zip", uri="a://b")).resource.blob == "eA=="
