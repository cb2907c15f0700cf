"""Images decoded in any order, by worker processes ahead of the reader.

The processes are those of torch's `DataLoader`. What they return depends on the request alone, so results are the same
for any number of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from collapselab.data.images import ImageForm, pixels
from collapselab.data.stored import ImageSource
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

# More of them seldom help, and each takes the memory of a Python process.
_MOST_WORKERS = 8
# Every pass starts workers. A copy of this process is there at once; a new one imports everything again, for seconds. Workers
# use no GPU, which could not be used in a copy. Processes that `spawn` started would otherwise spawn theirs, too.
_START_METHOD = "fork" if sys.platform == "linux" else None
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """Images that are decoded together.

    Attributes:
        positions: (b,) their numbers within the split, each once.
        step: the step of training that they are for; 0 in measurements.
    """

    positions: _Rows
    step: int = 0


def consecutive(start: int, stop: int, step: int) -> Iterator[Request]:
    """Yield requests for images `start` … `stop - 1`, `step` at a time."""
    for first in range(start, stop, step):
        yield Request(np.arange(first, min(first + step, stop)))


# From decoded images and their request to what a worker returns.
Work = Callable[[Tensor, Request], Tensor]


class BatchMaker(ABC):
    """Makes inputs of the images of a split."""

    @abstractmethod
    def batch(self, positions: _Rows) -> Tensor:
        """Return the inputs in these positions, in this order.

        Raises:
            InputError: a damaged image, or one of another size.
        """


@dataclass(frozen=True)
class Decoder(BatchMaker):
    """Decodes images to one form.

    Args:
        source: the images.
        rows: row numbers in `source` of the images of the split, ascending.
        form: what they are converted to.
    """

    source: ImageSource
    rows: _Rows
    form: ImageForm

    def batch(self, positions: _Rows) -> UInt8[Tensor, "b ch h w"]:
        """Return the images in these positions, in this order.

        Raises:
            InputError: a damaged image, or one of another size.
        """
        order = np.argsort(positions)
        images = self.source.images(self.rows[positions[order]])  # takes ascending rows
        decoded = np.empty((len(order), *self.form.shape), dtype=np.uint8)
        for place in order.tolist():
            decoded[place] = self._decoded(*next(images))
        return torch.from_numpy(decoded)

    def in_order(self, start: int, stop: int, step: int) -> Iterator[UInt8[Tensor, "b ch h w"]]:
        """Yield images `start` … `stop - 1`, `step` at a time."""
        images = self.source.images(self.rows[start:stop])
        for first in range(start, stop, step):
            decoded = np.empty((min(step, stop - first), *self.form.shape), dtype=np.uint8)
            for place in range(len(decoded)):
                decoded[place] = self._decoded(*next(images))
            yield torch.from_numpy(decoded)

    def _decoded(self, where: str, image: Image) -> npt.NDArray[np.uint8]:
        return pixels(image, self.form, where)


def default_workers() -> int:
    """Return how many processes decode images unless the user says so.

    One processor is left to the network. Processes on the same machine that share a run share the processors.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST_WORKERS, max(1, share - 1))


def decoded_ahead(
    decoder: BatchMaker,
    requests: Iterable[Request],
    workers: int,
    work: Work | None = None,
    *,
    pin: bool = False,
) -> Iterator[Tensor]:
    """Yield what each request gives, in order, while worker processes decode the next ones.

    The processes end with the iteration, also when it is abandoned.

    Args:
        decoder: of the split.
        requests: what is read.
        workers: number of processes; 0 decodes in this process when a result is asked for.
        work: applied to the decoded images, by the worker.
        pin: whether results are put in pinned memory, from which a GPU copies faster.

    Raises:
        InputError: a damaged image; a worker process that ended.
    """
    if isinstance(requests, Sized):
        workers = min(workers, len(requests))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more processes than processors: asked for
        loader: DataLoader[Any] = DataLoader(
            _Decoded(decoder, work),
            batch_size=None,  # a request is a batch already
            sampler=requests,
            num_workers=workers,
            pin_memory=pin,
            worker_init_fn=partial(_start_worker, os.getpid()) if workers else None,
            multiprocessing_context=_START_METHOD if workers else None,
            # The loader draws a seed: not from the generator that networks draw from.
            generator=torch.Generator(),
        )
        with _keeping_signal_handler():
            results = iter(loader)
    try:
        while True:
            with _reporting_lost_workers():
                result = next(results, None)
            if result is None:
                return
            if isinstance(result, str):
                raise InputError(result)
            yield result
    finally:
        del results  # which ends its processes


@contextmanager
def _keeping_signal_handler() -> Iterator[None]:
    """Undo what the loader does to SIGCHLD: raise an error wherever this process is when a worker dies.

    The loader finds a dead worker without it, within five seconds, where its next result is awaited.
    """
    name = getattr(signal, "SIGCHLD", None)  # not on Windows
    if (
        name is None or threading.current_thread() is not threading.main_thread()
    ):  # the loader sets none, either
        yield
        return
    before = signal.getsignal(name)
    yield
    if before is not None:  # set by Python
        signal.signal(name, before)


@contextmanager
def _reporting_lost_workers() -> Iterator[None]:
    """Report in one line that a worker process was killed, mostly for its memory.

    Raises:
        InputError: it was.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # The last two where it dies while it hands over a result.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a process that decodes images has ended ({one_line(error)}); use fewer with workers="
        ) from error


class _Decoded(Dataset[Tensor | str]):
    """What requests give, as `DataLoader` wants it; instead of an error its message, which would get a traceback."""

    def __init__(self, decoder: BatchMaker, work: Work | None) -> None:
        self._decoder, self._work = decoder, work

    def __getitem__(self, request: Request) -> Tensor | str:
        try:
            images = self._decoder.batch(request.positions)
        except InputError as error:
            return str(error)
        return images if self._work is None else self._work(images, request)


def _start_worker(reader: int, _number: int) -> None:
    """Leave signals to the process that reads: it finishes its step, and needs its workers for that.

    Ctrl-C, and `timeout`, signal a whole group of processes. A worker whose reader is gone ends by itself; torch does not
    notice a reader that was killed while the worker started.

    Args:
        reader: id of the process that reads.
    """
    if os.getppid() != reader:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how the loader ends one that does not answer
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
