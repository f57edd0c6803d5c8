"""What an environment may offer to MCP clients in addition to its task and its tools' texts. Imports nothing of MCP.

An author sets the class attribute `mcp_offers`. A policy in a rollout sees none of it: it reads the texts of the tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """One part of a result, of a prompt or of a resource.

    Attributes:
        text: of the part; empty where it has bytes.
        content: bytes of an image, a sound or a file.
        mime_type: of the part, such as `image/png`; bytes of `image/` and `audio/` types are shown as such.
        uri: makes the part an embedded resource of that name.
    """

    text: str = ""
    content: bytes = b""
    mime_type: str = "text/plain"
    uri: str = ""


@dataclass(frozen=True)
class Prompt:
    """A prompt in addition to the task.

    Attributes:
        description: for the user.
        parts: called with the arguments by name; each part is a message of the user.
        arguments: names of the arguments, all required, and what to suggest for each.
    """

    description: str
    parts: Callable[..., Sequence[Part]]
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Resource:
    """A resource, or resources of one form.

    Attributes:
        name, description: for the user.
        read: gives the part; a template's is called with the values of the URI's fields by name.
        mime_type: of the part.
    """

    name: str
    read: Callable[..., Part]
    description: str = ""
    mime_type: str = "text/plain"


@dataclass(frozen=True)
class McpOffers:
    """What there is.

    Attributes:
        results: name of a tool -> what its text becomes for an MCP client, called with the text.
        prompts: by name.
        resources: URI -> resource. A URI with fields, such as `map://{city}/streets`, is a template.
    """

    results: Mapping[str, Callable[[str], Sequence[Part]]] = field(default_factory=dict)
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    resources: Mapping[str, Resource] = field(default_factory=dict)
