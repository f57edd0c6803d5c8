"""A rank of a learner other than 0: a process that does what the trainer says. Writes no file.

It ends when the trainer ends, however that happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agentrl.distributed.child import LogToTrainer, ToTrainer, portable
from agentrl.distributed.learners.calls import Call, Gone, Join, Rank, StopFollowing
from agentrl.distributed.learners.group import join_group
from agentrl.distributed.messages import Alive, Broken, Ready
from agentrl.distributed.shared import unpacked
from agentrl.learning.parallel.ranks import Ranks
from agentrl.registry import load_file


def main(connection: Connection, trainer: ToTrainer, model: int) -> None:
    """Be a rank.

    Args:
        connection: to the trainer.
        trainer: the same, to send.
        model: descriptor of the memory that holds a whole model.
    """
    where = "a rank of the learner"
    try:
        join: Join = connection.recv()
        where = f"rank {join.rank} of the learner"
        _prepare(join, trainer)
        whole = unpacked(model, only_tensors=False, device=join.whole_device)
        os.close(model)
        trainer.send(Ready())
        join_group(join)
        asyncio.run(_follow(connection, trainer, Rank(Ranks.of(), whole, torch.device(join.device))))
    except StopFollowing:
        trainer.send(Alive(time.process_time()))
        os._exit(0)  # leaving the group would wait for rank 0, which waits for this process
    except EOFError:
        os._exit(1)
    except Exception as error:  # the trainer raises it
        told = portable(error, where)
        trainer.send(Gone(told) if _is_of_others(error) else Broken(told))
        os._exit(1)


def _prepare(join: Join, trainer: ToTrainer) -> None:
    # Rank 0 gives the warnings that all ranks give.
    logging.basicConfig(level=logging.ERROR, handlers=[LogToTrainer(trainer)])
    torch.set_num_threads(join.threads)
    device = torch.device(join.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)


async def _follow(connection: Connection, trainer: ToTrainer, rank: Rank) -> None:
    while True:
        files, written = connection.recv()
        for file in files:
            load_file(Path(file))
        call: Call = pickle.loads(written)
        await call.take_part(rank)
        trainer.send(Alive(time.process_time()))


def _is_of_others(error: Exception) -> bool:
    """Whether an error was raised where ranks exchange something: then another one has gone."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return False
    frames: Any = traceback.extract_tb(error.__traceback__)
    place = os.path.join(os.path.dirname(dist.__file__), "")
    return bool(frames) and frames[-1].filename.startswith(place)
