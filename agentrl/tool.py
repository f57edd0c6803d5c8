"""Functions as tools: type hints and a docstring become a JSON schema, arguments are validated.

Owns the schema and the validation of one call; running calls belongs to `agentrl.env.tool_env`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from agentrl.errors import ToolError, ToolSchemaError

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__agentrl_tool__"
_SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Source|Example|Examples|Note|Notes):(.*)$")


@dataclass(frozen=True)
class ToolOptions:
    """What `@tool(...)` was given."""

    name: str | None = None
    timeout_s: float | None = None
    blocking: bool | None = None


@overload
def tool(function: F) -> F: ...
@overload
def tool(
    *, name: str | None = None, timeout_s: float | None = None, blocking: bool | None = None
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    *,
    name: str | None = None,
    timeout_s: float | None = None,
    blocking: bool | None = None,
) -> F | Callable[[F], F]:
    """Mark a function or method as a tool that the model may call.

    A plain `def` tool runs in place and cannot be interrupted: right for a quick computation. One
    that waits (network, disk, sleep) must be `async def`, or carry `blocking=True` or `timeout_s`,
    which move it to a thread, where a timeout holds.

    Args:
        function: the function; every parameter needs a type hint.
        name: what the model calls it; the function's name by default.
        timeout_s: seconds before the call fails; the environment's `tool_timeout_s` by default.
        blocking: run a `def` tool in a thread.
    """

    def mark(target: F) -> F:
        moves = blocking if blocking is not None else (timeout_s is not None or None)
        setattr(target, _MARK, ToolOptions(name, timeout_s, moves))
        return target

    return mark(function) if function is not None else mark


def is_tool(value: Any) -> bool:
    """Whether `@tool` marked this function."""
    return hasattr(value, _MARK)


@dataclass(frozen=True)
class Tool:
    """A callable with a name, a description and a validated argument schema.

    Attributes:
        name: what the model calls it.
        description: the docstring without its sections.
        arguments: pydantic model of the parameters.
        function: what runs; it may be a coroutine function.
        timeout_s: seconds before a call fails; None takes the environment's.
        blocking: run a plain function in a thread.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    function: Callable[..., Any]
    timeout_s: float | None = None
    blocking: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """Build a tool from a function or method with type hints.

        Raises: ToolSchemaError if a parameter has no hint or a hint has no JSON schema.
        """
        options = getattr(function, _MARK, ToolOptions())
        name = options.name or function.__name__
        summary, parameter_docs = parse_docstring(inspect.getdoc(function) or "")
        return cls(
            name=name,
            description=summary,
            arguments=_arguments_model(name, function, parameter_docs),
            function=function,
            timeout_s=options.timeout_s,
            blocking=bool(options.blocking) and not inspect.iscoroutinefunction(function),
        )

    def bound_to(self, instance: Any) -> Tool:
        """The same tool with its function bound to an instance."""
        return replace(self, function=self.function.__get__(instance))

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI form: `{"type": "function", "function": {name, description, parameters}}`."""
        parameters = _without_titles(self.arguments.model_json_schema())
        parameters.pop("description", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check and convert the arguments of one call.

        Returns: keyword arguments for `function`, nested models and dataclasses built.
        Raises: ToolError that names each wrong argument and what was expected.
        """
        try:
            model = self.arguments.__pydantic_validator__.validate_python(dict(arguments))
        except ValidationError as error:
            raise ToolError(_explain(self.name, error)) from None
        return {name: getattr(model, name) for name in self.arguments.model_fields}


def _arguments_model(
    name: str, function: Callable[..., Any], parameter_docs: Mapping[str, str]
) -> type[BaseModel]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolSchemaError(f"tool {name!r}: a type hint cannot be resolved: {error}") from error
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if index == 0 and parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolSchemaError(f"tool {name!r}: *{parameter.name} has no JSON schema; name each parameter")
        if parameter.name not in hints:
            raise ToolSchemaError(
                f"tool {name!r}: parameter {parameter.name!r} has no type hint; "
                f"write `{parameter.name}: str` (or int, float, bool, Literal[...], list[...], a dataclass)"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        text = parameter_docs.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], Field(default, description=text))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except (PydanticSchemaGenerationError, TypeError, NameError) as error:
        raise ToolSchemaError(f"tool {name!r}: a type hint has no JSON schema: {error}") from error


def _explain(name: str, error: ValidationError) -> str:
    reasons = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "arguments"
        given = "" if item["type"] == "missing" else f", got {item['input']!r}"
        reasons.append(f"{where}: {item['msg']}{given}")
    return f"wrong arguments for {name}: " + "; ".join(reasons)


def _without_titles(schema: Any) -> Any:
    """Drop the `title` that pydantic adds to every field; models read names, not titles."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "properties":
            cleaned[key] = {name: _without_titles(item) for name, item in value.items()}
        else:
            cleaned[key] = _without_titles(value)
    return cleaned


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into its summary and the text of each parameter.

    Args:
        text: the cleaned docstring (`inspect.getdoc`).
    Returns: the text before the first section, and a mapping of parameter name to its text.
    """
    summary: list[str] = []
    parameters: dict[str, str] = {}
    section, current = "", ""
    for line in text.splitlines():
        header = _SECTION.match(line)
        if header:
            section, current = header.group(1), ""
            line = header.group(2)
        if not section:
            summary.append(line)
            continue
        if section not in ("Args", "Arguments"):
            continue
        entry = re.match(r"^\s*(\w+)\s*(?:\([^)]*\))?:\s*(.*)$", line)
        if entry:
            current = entry.group(1)
            parameters[current] = entry.group(2).strip()
        elif current and line.strip():
            parameters[current] += " " + line.strip()
    return "\n".join(summary).strip(), parameters
