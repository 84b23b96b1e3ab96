"""Several processes that train one model: who each is, and how they are started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pyro_citevae.errors import CiteVAEError, FitError

__all__ = ["World", "launch", "launched", "tell", "world"]

_ERRORS = "CITEVAE_ERRORS"  # folder in which the processes that launch() starts leave their errors


@final
@dataclass(frozen=True)
class World:
    """All processes of a fit, as ``torchrun`` numbers them.

    Attributes:
        rank: Which of them this is; the first, 0, writes and shows progress.
        size: How many there are.
        local_size: How many of them run on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    def seed(self, seed: int) -> int:
        """The seed of this process's draws; the first process keeps the seed as it is."""
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]) if self.rank else seed

    def lost_another(self, error: RuntimeError) -> bool:
        """Whether an error says that another process has ended."""
        said = isinstance(error, distributed.DistError) or "by peer" in str(error) or "gloo" in str(error)
        return self.size > 1 and said

    def gathered(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A tensor of every process, stacked."""
        if self.size == 1:
            return tensor[None]
        own = tensor.to(device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        return torch.stack(found).cpu()


def world(devices: int = 1) -> World:
    """The processes that ``torchrun`` started, or this one alone.

    Args:
        devices: How many the user asks for on this machine; 1 leaves the number to ``torchrun``.

    Raises:
        FitError: There are not as many as asked for.
    """
    if not distributed.is_torchelastic_launched():
        found = World()
    else:
        found = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))
    if devices not in (1, found.local_size):
        raise FitError(
            f"fit(devices={devices}) needs a process a device, and runs in {found.local_size}: start the "
            f"script by 'torchrun --nproc-per-node={devices} SCRIPT.py', or use citevae fit --devices "
            f"{devices}; a notebook trains on one device."
        )
    return found


def launched() -> bool:
    """Whether this process is one of several."""
    return distributed.is_torchelastic_launched()


def launch(n: int, arguments: Sequence[str], errors: Path) -> None:
    """Runs ``python`` with arguments in n processes, as ``torchrun`` does, and waits for them.

    Args:
        n: Number of processes.
        arguments: What follows ``python``.
        errors: An empty folder, for what the processes have to say.

    Raises:
        CiteVAEError: A process refused, or was killed; none goes on alone.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[_ERRORS] = str(errors)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # advice on parameters that are always used
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except SignalException as error:  # torch has taken the signals over, and ended the processes
        for heeded, handler in handlers.items():
            signal.signal(heeded, handler)
        signal.raise_signal(error.sigval)
    except ChildFailedError as error:
        killed = [(rank, number) for rank, one in error.failures.items() if (number := _signal(one.exitcode))]
        said = [path.read_text() for path in sorted(errors.iterdir(), key=lambda path: path.stat().st_mtime)]
        if killed:
            raise FitError(
                f"process {killed[0][0]} of {n} was killed (signal {killed[0][1]}), so the others were "
                "stopped; go on from the last whole epoch by the same call with resume=True."
            ) from error
        if said:
            raise CiteVAEError(said[0]) from error
        sys.exit(1)  # a defect, whose traceback the process has shown


def _signal(code: int) -> int:
    """The signal that ended a process, which a process of ours may have heeded first; 0 if none did."""
    of_a_shell = {128 + number: int(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return int(-code if code == -signal.SIGKILL else of_a_shell.get(code, 0))


def tell(error: CiteVAEError) -> bool:
    """Leaves an error for :func:`launch` to say, if it started this process."""
    folder = os.environ.get(_ERRORS)
    if folder is None or not launched():
        return False
    (Path(folder) / os.environ["RANK"]).write_text(str(error))
    return True
