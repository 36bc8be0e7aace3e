"""Time several candidates side by side, so that a busy machine slows all of them alike."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

Call = Callable[[], Tensor]

# Calls up to this many ms are made once untimed right before they are timed: slower neighbours in a round have put the
# threads to sleep and filled the caches, and waking threads can take longer than all the work of a small batch.
_PRIME_MS = 20.0
# Device cycles, about a millisecond, for which the device is kept busy before every timed call.
_HEAD_START = 2_000_000


def time_once(call: Call, device: torch.device) -> float:
    """Milliseconds that one call takes; freeing its result is not counted.

    On CUDA the clock is a pair of events on the device, and synchronising happens only outside. The device is given
    something to do first, so that the host runs ahead as it does in training: work that is only launched costs what
    the device needs for it, and a call that makes the host wait loses the head start, as it does in training.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - start
        del result
        return 1e3 * elapsed
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    torch.cuda._sleep(_HEAD_START)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def interleaved(
    calls: Mapping[str, Call],
    device: torch.device,
    rounds: int,
    warmup: int = 3,
    slow_ms: float = 500.0,
    seconds_each: float = 5.0,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Run every call once per round, in an order shuffled anew for each round.

    Args:
        calls: what to time, by name.
        device: where the calls compute.
        rounds: timed rounds.
        warmup: rounds before them that are not counted.
        slow_ms: a call that took longer than this in its first round skips the other warm-up rounds, and the timed
            rounds after ``seconds_each`` are spent on it, but runs in three at least.
        seconds_each: see ``slow_ms``.
        seed: of the shuffling.

    Returns:
        Milliseconds per round, by name. Lists of slow calls are shorter, and entry i is of round i in each of them.
    """
    shuffle = random.Random(seed)
    names = list(calls)
    limits = dict.fromkeys(names, rounds)
    latest = dict.fromkeys(names, float("inf"))

    def timed(name: str) -> float:
        if latest[name] < _PRIME_MS:
            calls[name]()
        latest[name] = time_once(calls[name], device)
        return latest[name]

    for number in range(warmup):
        shuffle.shuffle(names)
        for name in names:
            if limits[name] < rounds:
                continue
            elapsed = timed(name)
            if number == 0 and elapsed > slow_ms:
                limits[name] = min(rounds, max(3, int(1e3 * seconds_each / elapsed)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shuffle.shuffle(names)
        for name in names:
            if number < limits[name]:
                times[name].append(timed(name))
    return times


def ratio(times: list[float], floor: list[float]) -> float:
    """Median over rounds of the ratio to the floor's time in the same round."""
    return median(own / other for own, other in zip(times, floor, strict=False))


def host_syncs(call: Call) -> int:
    """How often one call makes the host wait for the CUDA device, as far as PyTorch notices."""
    torch.cuda.synchronize()
    # Switching the mode on warns as well, that it is a prototype: only what the call itself raises is counted.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def peak_extra_mb(call: Call) -> float:
    """Peak of CUDA memory during one call beyond what was there before it (its inputs), in MB of 10^6 bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6
