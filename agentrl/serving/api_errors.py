"""Errors of the endpoint in OpenAI's form. Owns the form and the codes."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that gets an error as its answer.

    Args:
        message: what is wrong, and what to do.
        status: of HTTP.
        param: the field of the request.
        code: a word for programs.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def context_exceeded(tokens: int, context: int) -> ApiError:
    """The messages leave no room for an answer."""
    return ApiError(
        f"This model's maximum context length is {context} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )
