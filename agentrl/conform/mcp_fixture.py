"""The environment that MCP's conformance suite asks for, as far as an environment can offer it. Needs the extra `mcp`.

Names, texts and URIs are the suite's (npm `@modelcontextprotocol/conformance`, 0.1.16 and 0.2.0-alpha.12). A tool does
here what an author's does: it returns a text, or raises. What becomes of the text for an MCP client is in `mcp_offers`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl.adapters.mcp_tools import Anything, McpTool
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ToolError
from agentrl.serving.mcp.offers import McpOffers, Part, Prompt, Resource
from agentrl.tool_schema import Tool
from agentrl.trajectory import Task

_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0"
_IMAGE = Part(content=_PNG, mime_type="image/png")
_EMBEDDED = Part("This is an embedded resource content.", uri="test://embedded-resource")
_MIXED = Part('{"test": "data", "value": 123}', mime_type="application/json", uri="test://mixed-content-resource")

_SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
_HEADERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}
_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}


def _tool(name: str, function: Callable[[Mapping[str, Any]], str], schema: Mapping[str, Any] = _NOTHING) -> Tool:
    return McpTool(name, f"{name} of the conformance suite", Anything, function, parameters=schema)


def _fails(given: Mapping[str, Any]) -> str:
    raise ToolError("This tool intentionally returns an error for testing")


def _templated(id: str) -> Part:
    told = {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}
    return Part(json.dumps(told), mime_type="application/json")


def _embedding(resourceUri: str) -> Sequence[Part]:
    part = Part("Embedded resource content for testing.", uri=resourceUri)
    return part, Part("Please process the embedded resource above.")


class McpFixture(ToolEnv):
    """Do what the conformance suite asks for."""

    tasks = Tasks.of(train=[{}])
    limits = Limits(max_turns=None)
    extra_tools = (
        _tool("test_simple_text", lambda given: "This is a simple text response for testing."),
        _tool("test_image_content", lambda given: "an image"),
        _tool("test_audio_content", lambda given: "a sound"),
        _tool("test_embedded_resource", lambda given: "a resource"),
        _tool("test_multiple_content_types", lambda given: "Multiple content types test:"),
        _tool("test_error_handling", _fails),
        _tool("json_schema_2020_12_tool", lambda given: "done", _SCHEMA),
        _tool("test_custom_headers", lambda given: f"region {given['region']}", _HEADERS),
    )
    mcp_offers = McpOffers(
        results={
            "test_image_content": lambda text: [_IMAGE],
            "test_audio_content": lambda text: [Part(content=_WAV, mime_type="audio/wav")],
            "test_embedded_resource": lambda text: [_EMBEDDED],
            "test_multiple_content_types": lambda text: [Part(text), _IMAGE, _MIXED],
        },
        prompts={
            "test_simple_prompt": Prompt("A prompt", lambda: [Part("This is a simple prompt for testing.")]),
            "test_prompt_with_arguments": Prompt(
                "A prompt with arguments",
                lambda arg1, arg2: [Part(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")],
                {"arg1": ("paris", "park", "party"), "arg2": ()},
            ),
            "test_prompt_with_embedded_resource": Prompt("A prompt with a resource", _embedding, {"resourceUri": ()}),
            "test_prompt_with_image": Prompt(
                "A prompt with an image", lambda: [_IMAGE, Part("Please analyze the image above.")]
            ),
        },
        resources={
            "test://static-text": Resource("text", lambda: Part("This is the content of the static text resource.")),
            "test://static-binary": Resource(
                "image", lambda: Part(content=_PNG, mime_type="image/png"), mime_type="image/png"
            ),
            "test://template/{id}/data": Resource("template", _templated, mime_type="application/json"),
        },
    )

    def start(self, task: Task) -> str:
        return "Do what the conformance suite asks for."

    def score(self, answer: str | None) -> float:
        return float(answer is not None)
