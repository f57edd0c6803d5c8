"""An environment's `McpOffers` as MCP: parts, prompts, resources, completions. Needs the extra `mcp`."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from agentrl.serving.mcp.offers import McpOffers, Part, Prompt

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def content_of(part: Part) -> Any:
    """A part of a result or a prompt."""
    if part.uri:
        return types.EmbeddedResource(resource=contents_of(part, part.uri))
    if not part.content:
        return types.TextContent(text=part.text)
    sent = base64.b64encode(part.content).decode()
    if part.mime_type.startswith("image/"):
        return types.ImageContent(data=sent, mime_type=part.mime_type)
    if part.mime_type.startswith("audio/"):
        return types.AudioContent(data=sent, mime_type=part.mime_type)
    raise ValueError(f"bytes of type {part.mime_type!r} need a `uri`: only images and sounds stand without one")


def contents_of(part: Part, uri: str) -> Any:
    """A part as what a resource holds."""
    if part.content:
        blob = base64.b64encode(part.content).decode()
        return types.BlobResourceContents(uri=uri, mime_type=part.mime_type, blob=blob)
    return types.TextResourceContents(uri=uri, mime_type=part.mime_type, text=part.text)


def prompts_of(offers: McpOffers) -> list[types.Prompt]:
    """Those in addition to the task."""
    return [
        types.Prompt(
            name=name,
            description=prompt.description,
            arguments=[types.PromptArgument(name=one, required=True) for one in prompt.arguments],
        )
        for name, prompt in offers.prompts.items()
    ]


def prompt_messages(prompt: Prompt, given: dict[str, str]) -> list[types.PromptMessage]:
    """The messages of a prompt. Raises: MCPError if its arguments are not those that it names."""
    if set(given) != set(prompt.arguments):
        raise MCPError(types.INVALID_PARAMS, f"the prompt takes the arguments {', '.join(prompt.arguments) or 'none'}")
    return [types.PromptMessage(role="user", content=content_of(part)) for part in prompt.parts(**given)]


def resources_of(offers: McpOffers) -> list[types.Resource]:
    """Resources that have a URI of their own."""
    return [
        types.Resource(uri=uri, name=one.name, description=one.description, mime_type=one.mime_type)
        for uri, one in offers.resources.items()
        if not _FIELD.search(uri)
    ]


def templates_of(offers: McpOffers) -> list[types.ResourceTemplate]:
    """Resources of one form."""
    return [
        types.ResourceTemplate(uri_template=uri, name=one.name, description=one.description, mime_type=one.mime_type)
        for uri, one in offers.resources.items()
        if _FIELD.search(uri)
    ]


def read_resource(offers: McpOffers, uri: str) -> list[Any]:
    """What a resource holds. Raises: MCPError if there is none of that URI."""
    for known, resource in offers.resources.items():
        found = re.fullmatch(_pattern(known), uri)
        if found is not None:
            return [contents_of(resource.read(**found.groupdict()), uri)]
    raise MCPError(types.INVALID_PARAMS, "there is no such resource", {"uri": uri})


def _pattern(uri: str) -> str:
    """Matches the URIs of a template; a field holds no slash."""
    pieces = _FIELD.split(uri)
    return "".join(re.escape(piece) if n % 2 == 0 else f"(?P<{piece}>[^/]+)" for n, piece in enumerate(pieces))


def completions(offers: McpOffers, params: types.CompleteRequestParams) -> Sequence[str]:
    """Suggestions for an argument of a prompt; none for what nobody knows."""
    prompt = offers.prompts.get(getattr(params.ref, "name", ""))
    known = () if prompt is None else prompt.arguments.get(params.argument.name, ())
    return [value for value in known if value.startswith(params.argument.value)][:100]
