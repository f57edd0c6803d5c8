"""The options of a policy behind a server: limits, retries and further fields of its requests. Owns no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from agentrl.errors import ConfigError
from agentrl.wire.retry import Retry

_FIRST_BACKOFF_S = 0.5


@dataclass(frozen=True)
class ChatOptions:
    """Limits, retries and further fields of the requests to a server.

    Attributes:
        timeout_s: seconds for one try, from sending the request to the last byte of the answer.
        max_retries: tries after the first, on 408/409/425/429/5xx, lost connections and timeouts.
        max_backoff_s: longest pause between tries, in seconds. Pauses double from 0.5 s, with jitter.
        max_wait_s: longest pause that the server may ask for (`Retry-After`), in seconds. A longer one is a
            fault at once.
        max_concurrency: most requests in flight at the same time.
        requests_per_minute: most requests in a minute, evenly spaced; None sets no limit.
        tool_choice, parallel_tool_calls: sent with every request that has tools; None leaves the server's default.
        max_tokens_field: name of the field that limits the answer; `max_completion_tokens` for OpenAI's
            reasoning models.
        send_reasoning: send the model's earlier reasoning back, in the field in which the server gave it.
        max_reply_bytes: largest answer that is read, in bytes after decompression; a larger one counts as a failed try.
        return_token_ids: ask for token ids and logprobs (vLLM), which training on this policy's samples needs.
        extra_body: further fields of every request; a value of None removes a field.
        omit: fields that are left out of every request, such as `seed`.
        headers: further HTTP headers; their values are treated as secrets.
    """

    timeout_s: float = 120.0
    max_retries: int = 6
    max_backoff_s: float = 30.0
    max_wait_s: float = 300.0
    max_concurrency: int = 64
    requests_per_minute: float | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tokens_field: str = "max_tokens"
    send_reasoning: bool = True
    max_reply_bytes: int = 16 << 20
    return_token_ids: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    omit: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.max_retries < 0 or self.max_concurrency < 1:
            raise ConfigError(
                "timeout_s must be above 0, max_retries 0 or more and max_concurrency 1 or more, "
                f"got {self.timeout_s}, {self.max_retries} and {self.max_concurrency}"
            )
        if self.max_reply_bytes < 1:
            raise ConfigError(f"max_reply_bytes must be 1 or more, got {self.max_reply_bytes}")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise ConfigError(f"requests_per_minute must be above 0, got {self.requests_per_minute}")

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        plain = ChatOptions()
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}

    @property
    def retry(self) -> Retry:
        """These options as the rule for retries."""
        return Retry(
            attempts=self.max_retries + 1,
            base_s=_FIRST_BACKOFF_S,
            max_wait_s=self.max_backoff_s,
            max_asked_s=self.max_wait_s,
            jitter="half",
        )
