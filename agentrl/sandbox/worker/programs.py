"""What a forked child runs: a program, Python code, one graded call, or a session. It never returns to the worker.

Foreign code controls the process that all of this runs in, so its reports are not trusted: the worker judges by how
the process ended, and a returned value is only what that code claims to have computed.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import json
import linecache
import os
import signal
import struct
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from agentrl.sandbox.worker.plain import ValueFormError, decode, encode

OUT_OF_MEMORY = 128 + int(signal.SIGKILL)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_FILE = "<sandbox>"
_CELL_BYTES = 1 << 16
LENGTH = struct.Struct("!I")


def run_program(asked: Mapping[str, Any]) -> None:
    """Execute a program in a child; this process waits for it, collects its orphans, and ends with its exit code.

    Args:
        asked: `argv`, and `env`, variables in addition to the sandbox's own.
    """
    argv: Sequence[str] = asked["argv"]
    os.environ.update(asked["env"])
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, programs expect the default
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(argv[0], list(argv), os.environ)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
            os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)
    for fd in (0, 1, 2):
        os.close(fd)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def prepare(env: Mapping[str, str]) -> None:
    """Make the worker look like an ordinary interpreter, once. In a fork, each page written to would be copied."""
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = _streams()
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    sys.argv = ["main.py"]
    for name in [name for name in sys.modules if name == "agentrl" or name.startswith("agentrl.")]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not path.endswith(".zip") or "python" in path]


def begin(folder: str) -> None:
    """In a fork of the worker: let programs import modules from the work folder."""
    sys.path.insert(0, folder)


def _streams() -> tuple[TextIO, TextIO, TextIO]:
    """Standard streams for forks, made while descriptors 0 to 2 are pipes, as they will be in a fork.

    Python sets a stream up by what its descriptor is.
    """
    own = [os.dup(fd) for fd in (0, 1, 2)]
    pipe = os.pipe()
    for fd, end in enumerate((pipe[0], pipe[1], pipe[1])):
        os.dup2(end, fd)
    try:
        read = _stream(0, "r", "surrogateescape")
        return read, _stream(1, "w", "surrogateescape"), _stream(2, "w", "backslashreplace")
    finally:
        for fd, saved in enumerate(own):
            os.dup2(saved, fd)
        for fd in (*own, *pipe):
            os.close(fd)


def _stream(fd: int, mode: str, errors: str) -> TextIO:
    # Flushed after each line, so that what a program printed is there when it is killed.
    return open(fd, mode, encoding="utf-8", errors=errors, closefd=False, buffering=1)  # type: ignore[return-value]


def main_module() -> dict[str, Any]:
    """The namespace that the code runs in, as `__main__`."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module.__dict__


def run_code(code: str) -> None:
    """Run code as `python main.py` would, and end the process."""
    leave(_guarded(lambda: exec(_compiled(code, "exec"), main_module())))


def run_call(request: bytes, report_fd: int) -> None:
    """Call one function of a module, write the encoded value to the report, and end the process."""
    asked = json.loads(request)
    args, kwargs = decode(asked["args"].encode("latin-1")), decode(asked["kwargs"].encode("latin-1"))

    def body() -> None:
        namespace = main_module()
        namespace["__name__"] = "solution"
        exec(_compiled(asked["source"], "exec"), namespace)
        try:
            form = encode(namespace[asked["function"]](*args, **kwargs))
        except ValueFormError as error:
            form = b""
            _write(report_fd, b"E" + f"TypeError: {error}".encode())
        if form:
            _write(report_fd, b"R" + form)

    raised: list[str] = []
    code = _guarded(body, raised)
    if raised:
        _write(report_fd, b"E" + raised[0].encode("utf-8", "replace")[:4096])
    leave(code)


def run_session(requests_fd: int, report_fd: int) -> None:
    """Run one piece of code after the other in one namespace; the process ends when the requests end."""
    namespace = main_module()
    while True:
        code = _next_cell(requests_fd)
        ended = _guarded(lambda code=code: _run_cell(code, namespace))
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        _write(report_fd, LENGTH.pack(ended & 0xFF))


def _next_cell(requests_fd: int) -> str:
    """The next piece of code. The host sends none before it has the answer to the last one."""
    content = bytearray(os.read(requests_fd, _CELL_BYTES))
    while len(content) < LENGTH.size or len(content) < LENGTH.size + LENGTH.unpack_from(content)[0]:
        chunk = os.read(requests_fd, 1 << 20)
        if not chunk:
            os._exit(0)
        content += chunk
    return content[LENGTH.size :].decode("utf-8", "surrogatepass")


def _run_cell(code: str, namespace: dict[str, Any]) -> None:
    linecache.cache[_FILE] = (len(code), None, code.splitlines(True), _FILE)
    alone = _expression(code)
    if alone is None:
        tree = ast.parse(code, _FILE)
        last = _pop_expression(tree)
        exec(compile(tree, _FILE, "exec", dont_inherit=True), namespace)
        alone = None if last is None else compile(ast.Expression(last), _FILE, "eval", dont_inherit=True)
    if alone is not None:
        value = eval(alone, namespace)
        if value is not None:
            sys.stdout.write(repr(value) + "\n")


def _expression(code: str) -> types.CodeType | None:
    """The compiled code of a line that is one expression, or None. This takes half the time of `ast.parse`."""
    if "\n" in code or "=" in code:
        return None
    try:
        return compile(code, _FILE, "eval", dont_inherit=True)
    except SyntaxError:
        return None


def _pop_expression(tree: ast.Module) -> ast.expr | None:
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return None
    last = tree.body.pop()
    return last.value if isinstance(last, ast.Expr) else None


def _compiled(code: str, mode: str) -> types.CodeType:
    linecache.cache[_FILE] = (len(code), None, code.splitlines(True), _FILE)
    return compile(code, _FILE, mode, dont_inherit=True)


def _guarded(body: Any, raised: list[str] | None = None) -> int:
    """Call `body`; returns the exit code that Python would end with, after printing what Python would print."""
    try:
        body()
        return 0
    except SystemExit as stop:
        if stop.code is None:
            return 0
        if isinstance(stop.code, int):
            return stop.code & 0xFF
        sys.stderr.write(f"{stop.code}\n")
        return 1
    except BaseException as error:
        if raised is not None:
            raised.append(f"{type(error).__name__}: {error}")
        _print_traceback(error)
        return OUT_OF_MEMORY if isinstance(error, MemoryError) else 1


def _print_traceback(error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != _FILE:
        trace = trace.tb_next
    try:
        traceback.print_exception(type(error), error, trace)
    except BaseException:
        os.write(2, type(error).__name__.encode() + b"\n")


def leave(code: int) -> None:
    """End as an interpreter ends (wait for threads, run exit handlers, flush), but free no memory."""
    try:
        threading = sys.modules.get("threading")  # not imported by the worker: it would slow every fork
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException as error:
        _print_traceback(error)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    os._exit(code)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except BaseException:
        return


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
