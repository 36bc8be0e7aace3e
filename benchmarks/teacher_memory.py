"""What a teacher takes in the memory of each of two processes, whole and shared out, on a CPU with gloo.

    python benchmarks/teacher_memory.py --network vit_base_patch16_224

A table in Markdown: the weights that a process holds, and how far its own memory (anonymous pages: no mapped files, no
code) has grown when the teacher is built, after a batch, and at most. Each case runs in processes of its own, where the
C library gives back what is freed; by default it keeps blocks of up to 32 MB, as if gathered weights stayed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from ida_lightning.models import build_model
from ida_lightning.modules import Teacher
from ida_lightning.modules.teacher import FrozenTeacher

PROCESSES = 2
CLASSES = 1000


def own_memory() -> float:
    """Return this process's anonymous memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024 / 1e6


@contextmanager
def highest() -> Iterator[list[float]]:
    """Yield a list of one number, the most memory so far, looked up every 2 ms."""
    seen, done = [own_memory()], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            seen[0] = max(seen[0], own_memory())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def measure(
    rank: int, network: str, file: str, strategy: Literal["replicate", "shard"], size: int, rows: int, found: Any
) -> None:
    """Build the teacher, ask it about one batch, and put the figures of the first process into ``found``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{file}.{strategy}", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    teacher = FrozenTeacher(Teacher(network, file, strategy=strategy), CLASSES, 3, size)
    images = torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = own_memory()
    with highest() as most:
        teacher.prepare(None, mesh=mesh)
        built, peak = own_memory(), most[0]
    with highest() as most:
        answer = teacher(images)
        asked, peak_asked = own_memory(), most[0]
    assert teacher.network is not None
    parameters = list(teacher.network.parameters())
    held = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in parameters) / 1e6
    if rank == 0:
        figures = [held, built - before, peak - before, asked - before, peak_asked - before]
        found[strategy] = figures, teacher.fingerprint, answer
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Measure both strategies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vit_base_patch16_224", help="a timm name")
    parser.add_argument("--size", type=int, default=224, help="pixels of an image")
    parser.add_argument("--rows", type=int, default=8, help="of the batch")
    options = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)  # glibc looks at it in the processes that are started
    torch.manual_seed(0)
    write = sys.stdout.write
    write(f"{options.network}, batch of {options.rows} x {options.size}^2, torch {torch.__version__}, ")
    write(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {PROCESSES} gloo processes, seed 0\n\n")
    with tempfile.TemporaryDirectory() as folder, mp.Manager() as manager:
        file, found = str(Path(folder, "teacher.safetensors")), manager.dict()
        save_file(build_model(options.network, CLASSES).state_dict(), file)
        for strategy in ("replicate", "shard"):
            arguments = (options.network, file, strategy, options.size, options.rows, found)
            mp.spawn(measure, arguments, nprocs=PROCESSES)
        write(
            "| MB in one process | weights held | built | at most until then | after a batch | at most in the batch |\n"
        )
        write("|---|---|---|---|---|---|\n")
        for strategy, (figures, _, _) in found.items():
            write(f"| {strategy} | {' | '.join(f'{figure:.0f}' for figure in figures)} |\n")
        (_, whole, answer), (_, shared, other) = found.values()
        write(f"\nthe same weights: {whole == shared}; the same answers, bit for bit: {torch.equal(answer, other)}\n")


if __name__ == "__main__":
    main()
