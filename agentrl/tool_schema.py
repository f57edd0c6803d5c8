"""Functions as tools: type hints and a docstring become a JSON schema, arguments are validated.

Owns the schema and the validation of one call; running calls belongs to `agentrl.env.execution`.

The schema is the plain subset that small models, chat templates and OpenAI-compatible servers all read:
no `$ref` (definitions are written out where they are used; only a recursive type keeps its `$defs`), no
titles, and every object closed with `additionalProperties: false`. OpenAI's strict mode asks for the same,
with one difference: here, a parameter with a default stays optional.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, overload

import docstring_parser
from docstring_parser import Docstring, DocstringStyle
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning

from agentrl.errors import ToolError, ToolSchemaError, did_you_mean
from agentrl.safe_json import problem_of, shown
from agentrl.schemas.plain import plain_schema
from agentrl.tool_hints import doc_of, function_of, json_only, name_of, parameters_of

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__agentrl_tool__"
_CONFIG = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
_UNION_BRANCHES = frozenset({"str", "int", "float", "bool", "none", "list", "dict", "tuple", "set"})
_MOST_SHOWN = 60
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CLOSED_TYPES = (str, int, bool, None)
_SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Source|Example|Examples|Note|Notes):(.*)$")


@dataclass(frozen=True)
class ToolOptions:
    """The arguments of `@tool(...)`."""

    name: str | None = None
    timeout_s: float | None = None
    blocking: bool | None = None
    parallel: bool = False


@overload
def tool(function: F) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout_s: float | None = None,
    blocking: bool | None = None,
    parallel: bool = False,
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    *,
    name: str | None = None,
    timeout_s: float | None = None,
    blocking: bool | None = None,
    parallel: bool = False,
) -> F | Callable[[F], F]:
    """Mark a function or method as a tool that the model may call.

    A plain `def` tool runs in place and cannot be interrupted; that suits a quick computation. A tool
    that waits (network, disk, sleep) must be `async def`, or be marked with `blocking=True` or
    `timeout_s`: it then runs in a thread, and the call fails after the timeout.

    Args:
        function: the function; every parameter needs a type hint.
        name: what the model calls it; the function's name by default.
        timeout_s: seconds before the call fails; the environment's `tool_timeout_s` by default.
        blocking: run a `def` tool in a thread.
        parallel: calls that stand next to each other in one turn, all of parallel tools that wait, may run at the
            same time. All other calls of a turn run in order, each after the one before it has returned.
    """

    def mark(target: F) -> F:
        moves = blocking if blocking is not None else (timeout_s is not None or None)
        setattr(target, _MARK, ToolOptions(name, timeout_s, moves, parallel))
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
        parallel: may run at the same time as neighbouring calls of the turn, if it waits.
        aclose: frees what the tool holds in the running event loop; the environment's `aclose` calls it.
        faults_are_read: answer a fault as an error that the model reads; see `Env.make_readable`.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    function: Callable[..., Any]
    timeout_s: float | None = None
    blocking: bool = False
    parallel: bool = False
    aclose: Callable[[], Awaitable[None]] | None = None
    faults_are_read: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ToolSchemaError(
                f"a tool cannot be called {shown(self.name)}: servers take 1 to 64 letters without accents, digits, "
                '"_" and "-"; give it another one with @tool(name="...")'
            )

    @classmethod
    def of(cls, function: Callable[..., Any], *, owner: str = "") -> Tool:
        """Build a tool from a function or method with type hints, from a partial of one, or from a callable object.

        Args:
            function: the function; its docstring describes it and its parameters.
            owner: name of the class it is a method of, for messages.
        Raises: ToolSchemaError if a parameter has no hint, a hint has no JSON schema, or servers refuse the name.
        """
        options = getattr(function, _MARK, ToolOptions())
        if isinstance(function, (staticmethod, classmethod)):
            raise ToolSchemaError(
                f"tool {owner}.{function.__name__}: a static or class method cannot be a tool; "
                "make it a method, or put Tool.of(function) into `extra_tools`"
            )
        name = options.name if options.name is not None else name_of(function)
        summary, parameter_docs = parse_docstring(doc_of(function))
        function = function_of(function)
        where = f"{owner}.{name}" if owner else name
        return cls(
            name=name,
            description=summary,
            arguments=_arguments_model(name, where, function, parameter_docs),
            function=function,
            timeout_s=options.timeout_s,
            blocking=bool(options.blocking) and not inspect.iscoroutinefunction(function),
            parallel=options.parallel,
        )

    def bound_to(self, instance: Any) -> Tool:
        """The same tool with its function bound to an instance."""
        return replace(self, function=self.function.__get__(instance))

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def takes_self(self) -> bool:
        """Whether the function is written like a method, so that an instance must be bound to it."""
        function = self.function
        if inspect.ismethod(function) or not hasattr(function, "__get__"):
            return False
        return next(iter(inspect.signature(function).parameters), "") == "self"

    @cached_property
    def is_inline(self) -> bool:
        """Whether a call runs in place and cannot wait: a plain function that is not `blocking`."""
        return not self.blocking and not self.is_async

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI form: `{"type": "function", "function": {name, description, parameters}}`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
            parameters = json_only(plain_schema(self.arguments.model_json_schema()))
        parameters.pop("description", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check and convert the arguments of one call.

        Before any schema is asked, arguments are safe to encode, send and store: see `agentrl.safe_json`.

        Returns: keyword arguments for `function`, nested models and dataclasses built.
        Raises: ToolError that names each wrong argument and what was expected.
        """
        given = arguments
        if type(given) is not dict:
            if not isinstance(given, Mapping):
                raise ToolError(f"wrong arguments for {self.name}: they must be an object, got {type(given).__name__}")
            given = dict(given)
        problem = problem_of(given)
        if problem is not None:
            raise ToolError(f"wrong arguments for {self.name}: {problem}")
        return self.convert(given)

    def convert(self, given: dict[str, Any]) -> dict[str, Any]:
        """`validate` for arguments that are known to be safe, such as those of a call in `Action.safe()`."""
        try:
            made: BaseModel = self._validator.validate_python(given)
        except ValidationError as error:
            raise ToolError(_explain(self, error)) from None
        except (RecursionError, OverflowError):
            raise ToolError(f"wrong arguments for {self.name}: a value is too large or nested too deeply") from None
        for name, shown_name in self._open_fields:
            if name in made.model_fields_set and _holds_infinite(made.__dict__[name]):
                raise ToolError(f"wrong arguments for {self.name}: {shown_name} must hold finite numbers only")
        return made.__dict__

    @cached_property
    def _open_fields(self) -> tuple[tuple[str, str], ...]:
        """Parameters, and what the model calls them, whose type may read the text "NaN" as a number."""
        fields = self.arguments.model_fields.items()
        return tuple((name, item.alias or name) for name, item in fields if item.annotation not in _CLOSED_TYPES)

    @cached_property
    def _validator(self) -> Any:
        return self.arguments.__pydantic_validator__


def _arguments_model(
    name: str, where: str, function: Callable[..., Any], parameter_docs: Mapping[str, str]
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter, given in parameters_of(where, function).items():
        text = given.description or parameter_docs.get(parameter)
        default = ... if given.default is inspect.Parameter.empty else given.default
        fields[parameter] = (given.hint, Field(default, description=text) if text else Field(default))
    try:
        with warnings.catch_warnings():
            # A parameter named `json` or `copy` hides a method of the model that nobody calls.
            warnings.filterwarnings("ignore", message=".*shadows an attribute in parent.*")
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that is no JSON is not shown
            model: type[BaseModel] = create_model(name, __config__=_CONFIG, **fields)
            json_only(model.model_json_schema())
    except (PydanticUserError, TypeError, NameError) as error:
        raise ToolSchemaError(f"tool {where}: a type hint has no JSON schema: {_first_line(error)}") from error
    return model


def _holds_infinite(value: Any) -> bool:
    """Whether a model gave a number that is not finite, somewhere in a converted argument; defaults may be infinite."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, BaseModel):
        return any(_holds_infinite(getattr(value, name, None)) for name in value.model_fields_set)
    if isinstance(value, Mapping):
        return any(map(_holds_infinite, value.values()))
    return isinstance(value, (list, tuple, Set)) and any(map(_holds_infinite, value))


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _explain(tool: Tool, error: ValidationError) -> str:
    """What is wrong with each argument, in words that a small model can act on; at most five reasons."""
    reasons: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        location = item["loc"] or ("arguments",)
        reasons.setdefault(_place(location), []).append(_reason(tool, item))
    lines = [f"{place} {' or '.join(dict.fromkeys(texts))}" for place, texts in reasons.items()]
    return f"wrong arguments for {tool.name}: " + "; ".join(lines[:5])


def _place(location: Sequence[int | str]) -> str:
    """The path of an argument (`items[0].price`), without the names that pydantic adds for branches of a union."""
    text = str(location[0])
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}..."
    for part in location[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in _UNION_BRANCHES and len(part) <= _MOST_SHOWN:
            text += f".{part}"
    return text


def _reason(tool: Tool, item: Mapping[str, Any]) -> str:
    if item["type"] == "missing":
        return "is missing"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = tool.arguments.model_fields if len(item["loc"]) == 1 else ()
        return f"is not an argument.{did_you_mean(str(item['loc'][-1])[:_MOST_SHOWN], known)}"
    message = str(item["msg"]).replace("Input should", "should").replace("Value error, ", "")
    given = repr(item["input"])
    return f"{message}, got {given if len(given) <= 80 else given[:77] + '...'}"


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring in Google, NumPy or Sphinx form into its description and the text of each parameter.

    Args:
        text: the cleaned docstring (`inspect.getdoc`).
    Returns: the text before the first section, and a mapping of parameter name to its text.
    """
    for style in (DocstringStyle.NUMPYDOC, DocstringStyle.REST):
        try:
            parsed = docstring_parser.parse(text, style)
        except docstring_parser.ParseError:
            continue
        if parsed.params or parsed.many_returns or parsed.raises:
            return (parsed.description or "").strip(), _parameter_texts(parsed)
    return _parse_google(text)


def _parameter_texts(parsed: Docstring) -> dict[str, str]:
    """The text of each parameter, on one line. In NumPy form, parameters may share a text: `x, y : int`."""
    texts = {}
    for parameter in parsed.params:
        for name in parameter.arg_name.split(","):
            texts[name.strip()] = " ".join((parameter.description or "").split())
    return texts


def _parse_google(text: str) -> tuple[str, dict[str, str]]:
    """`parse_docstring` for Google form.

    docstring-parser is too strict for it. It does not read `Args: x: text` on one line, and it drops all
    sections if one line of `Args` or `Raises` has no colon.
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
