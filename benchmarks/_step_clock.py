"""When the steps of a training run begin and end, and what they spend their time on."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler

WARMUP = 2  # first steps of every block, not timed
PARTS = ("teacher", "student", "data", "correction", "rest")


class Clock(Profiler):
    """Times the steps of a block and, where it is given to a Trainer as its profiler, their parts.

    On CUDA it marks events on the device, so that nothing waits before the block is over.
    """

    told = {  # noqa: RUF012
        "[_TrainingEpochLoop].train_dataloader_next": "data",
        "[Strategy]SingleDeviceStrategy.batch_to_device": "data",
        "[Strategy]SingleDeviceStrategy.backward": "student",
    }

    def __init__(self, device: torch.device, steps: int) -> None:
        super().__init__()
        self.cuda, self.steps, self.total = device.type == "cuda", steps, WARMUP + steps
        self.ticks: list[Any] = []
        self.open: dict[str, Any] = {}
        self.spans: list[tuple[int, str, Any, Any]] = []

    def start(self, action_name: str) -> None:
        """A part begins; parts do not overlap. Whatever else Lightning tells is not of interest."""
        name = self.told.get(action_name, action_name)
        if name in PARTS:
            self.open[name] = self._now()

    def stop(self, action_name: str) -> None:
        """A part ends."""
        name = self.told.get(action_name, action_name)
        if name in self.open:
            self.spans.append((len(self.ticks), name, self.open.pop(name), self._now()))

    def tick(self) -> None:
        """A step is over."""
        self.ticks.append(self._now())

    def ms(self) -> float:
        """Of one step, on average: what happens every so many steps counts with its share."""
        return self._between(self.ticks[WARMUP - 1], self.ticks[-1]) / self.steps

    def parts(self) -> dict[str, float]:
        """Milliseconds that each part takes of one step, on average."""
        found = dict.fromkeys(PARTS, 0.0)
        for step, name, begin, end in self.spans:
            if step >= WARMUP:
                found[name] += self._between(begin, end) / self.steps
        return {**found, "rest": self.ms() - sum(found.values())}

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        if not self.cuda:
            return 1e3 * (end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end))


class Ticks(L.Callback):
    """Tells the clock of every step and, if ``timed``, of the parts of which Lightning tells no profiler."""

    def __init__(self, clock: Clock, timed: bool) -> None:
        self.clock, self.timed = clock, timed

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """All others have been set up: the correction's hook is between the one that starts and the one that stops."""
        if not self.timed:
            return
        clock, pay = self.clock, pl_module.loss_parts

        def paying(*arguments: Any) -> Any:
            with clock.profile("student"):
                return pay(*arguments)

        for part, network in (("teacher", pl_module.teacher.network), ("student", pl_module.student)):
            network.register_forward_pre_hook(lambda *_, part=part: clock.start(part))
            network.register_forward_hook(lambda *_, part=part: clock.stop(part))
        pl_module.loss_parts = paying
        pl_module.register_supervision_hook(lambda supervision: clock.stop("correction") or supervision)
        # Lightning's own figure for the optimiser contains forward and backward.
        trainer.optimizers[0].register_step_post_hook(lambda *_: clock.stop("student"))

    def on_before_optimizer_step(self, *_: Any) -> None:
        """The backward pass is over."""
        if self.timed:
            self.clock.start("student")

    def on_train_batch_end(self, *_: Any) -> None:
        """From here to the next call is one step, with all that Lightning does around it."""
        self.clock.tick()
