"""A child that stops at a chosen moment, in place of a sampling process."""

from __future__ import annotations

import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from typing import Any

from agentrl.distributed.messages import Ready


def main(connection: Connection, trainer: Any, given: int) -> None:
    """Does what the `chat_format` of its set-up says."""
    how = connection.recv().chat_format
    if how == "killed before it is ready":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stopped before it is ready":
        os.kill(os.getpid(), signal.SIGSTOP)
    trainer.send(Ready())
    if how == "stopped in the middle of a message":
        os.write(connection.fileno(), struct.pack("!i", 1000) + b"the beginning of it")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)
