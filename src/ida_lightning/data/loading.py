"""A sampler and a loader that go on in the middle of an epoch after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ida_lightning.mixing import MixedBatch


class EpochSampler(DistributedSampler[MixedBatch]):
    """Shuffles anew every epoch, shares out among processes, and goes on where an interrupted epoch stopped.

    It yields keys, ``epoch * len(dataset) + row``, from which data sets that decode in worker processes know the
    epoch that their random crops belong to.

    Args:
        dataset: what to draw from.
        seed: the order depends on it and on the epoch.
        rows_done: how many rows of the present epoch this process has had, asked when iteration starts.
        replicas: number of processes.
        rank: of this process.
        cycle: asked for every epoch: after how many epochs the order comes again; None for never.
    """

    def __init__(
        self,
        dataset: Dataset[MixedBatch],
        seed: int,
        rows_done: Callable[[], int] = lambda: 0,
        replicas: int = 1,
        rank: int = 0,
        cycle: Callable[[], int | None] = lambda: None,
    ) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, seed=seed)
        self.rows_done = rows_done
        self.cycle = cycle

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the order and the draws of data sets that decode belong to."""
        super().set_epoch(epoch % (self.cycle() or epoch + 1))

    def __iter__(self) -> Iterator[Any]:
        first = self.epoch * len(self.dataset)  # type: ignore[arg-type]
        rows: Iterator[Any] = super().__iter__()
        for row in islice(rows, self.rows_done(), None):
            yield first + row


class ResumableLoader(DataLoader[MixedBatch]):
    """A DataLoader that reads nothing from its sampler before the first batch is asked for.

    Lightning makes the iterator before it knows from which epoch and batch a resumed run goes on, and worker
    processes would start to read ahead at once. Where to go on is known to the Trainer, so the state is empty;
    having one tells Lightning that the loader can be resumed.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the sampler asks the Trainer."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing."""
