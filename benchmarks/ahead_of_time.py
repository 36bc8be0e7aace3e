"""What the kernel becomes on GPUs that are not here: registers, stack and barriers, and the bytes that it moves.

    python benchmarks/ahead_of_time.py [--quick] [--out benchmarks/results]

compiles it for every target and size (ten minutes), counts loads and stores in Triton's interpreter, and writes
``ahead_of_time.csv``, ``ahead_of_time_bytes.csv`` and ``ahead_of_time.md``. benchmarks/README.md says what is in them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from ida_lightning.files import replacing
from ida_lightning.isotonic.kernel.plan import IN_REGISTERS, plan

SIZES = (10, 100, 1000, 4096, 8192, 21_841, 32_768, 65_536)
# Everything is compiled for this one, a part for the others.
MAIN = "sm_90"
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "gfx942")
FORMS = ("plain", "softmax", "margin")
POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
# Of the floor, for rows in order.
BYTES_BUDGET = 1.3


class Case(NamedTuple):
    """One compilation."""

    target: str
    classes: int
    dtype: str
    ranked: int
    form: str


def cases(quick: bool) -> Iterator[Case]:
    """What is compiled."""
    if quick:
        yield from (Case(MAIN, 1000, "float32", 2, "softmax"), Case("sm_80", 21_841, "bfloat16", 4, "plain"))
        yield from (Case("sm_90", 10, "float16", 3, "margin"), Case("gfx942", 21_841, "float32", 2, "softmax"))
        return
    # What needs most registers comes first, for runs that are cut short; what is no main target gets five sizes.
    half = {"sm_75": "float16"}
    for ranked, form in ((4, "softmax"), (4, "plain"), (2, "margin"), (2, "softmax"), (2, "plain")):
        for classes in (21_841, 1000, 10, 8192, 65_536):
            for target in TARGETS:
                yield Case(
                    target, classes, half.get(target, "bfloat16") if form == "plain" else "float32", ranked, form
                )
    for ranked in (1, 2, 3, 4):
        for classes in SIZES:
            yield Case(MAIN, classes, "float32", ranked, "plain")
            if ranked in (1, 3) or classes in (100, 4096, 32_768):
                yield Case(MAIN, classes, "float32", ranked, "softmax")
                yield Case(MAIN, classes, "bfloat16", ranked, "plain")


def compiled(case: Case) -> dict[str, Any]:
    """Compile one case; registers and stack a thread, barriers that wait for another warp."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ida_lightning.isotonic.kernel.device import isotonic_rows
    from ida_lightning.isotonic.kernel.operators import compile_options

    hip = case.target.startswith("gfx")
    warp_size = 64 if hip else 32
    target = GPUTarget("hip", case.target, 64) if hip else GPUTarget("cuda", int(case.target[3:]), 32)
    fixed = plan(case.classes, warp_size=warp_size)
    constants = {
        **{"RANKED": case.ranked, "K": triton.next_power_of_2(case.ranked), "ROWS": fixed.rows, "BLOCK": fixed.block},
        **{"CHUNKED": fixed.chunked, "VECTOR": fixed.vector},
        **{"SOFTMAX": case.form == "softmax", "MARGIN": case.form == "margin"},
    }
    types = {"labels_ptr": "*i64", "weights_ptr": "*fp32", "rows": "i32", "vectors": "i32", "row_vectors": "i32"}
    types |= dict.fromkeys(("per_temperature", "margin", "tie_tolerance"), "fp32")
    types |= {"values_ptr": POINTERS[case.dtype]}
    types["corrected_ptr"] = "*fp32" if case.form == "softmax" else POINTERS[case.dtype]
    signature = {name: types.get(name, "constexpr") for name in isotonic_rows.arg_names}
    # As at run time: memory of PyTorch begins at multiples of 16, and a whole number that is one says so.
    multiples = [name for name in types if name.endswith("_ptr")]
    multiples += ["vectors", "row_vectors"] if case.classes // fixed.vector % 16 == 0 else []
    hints = {(isotonic_rows.arg_names.index(name),): [["tt.divisibility", 16]] for name in multiples}
    source = ASTSource(isotonic_rows, signature, constexprs=constants, attrs=hints)
    done = triton.compile(
        source, target=target, options={"num_warps": fixed.warps, **compile_options(fixed.warps, hip)}
    )
    facts = _of_amd(done.asm["amdgcn"]) if hip else _of_nvidia(done.asm["ptx"], case.target)
    if fixed.warps == 1:
        facts["barriers"] = 0  # of a warp with itself
    return {**case._asdict(), **fixed._asdict(), "threads": fixed.warps * warp_size, **facts}


def _of_nvidia(ptx: str, target: str) -> dict[str, int]:
    from triton.backends.nvidia.compiler import get_ptxas

    found = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert found
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [get_ptxas(int(target[3:])).path, "-v", "--gpu-name", found[1], str(file), "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {"registers": _number(r"Used (\d+) registers", said), "stack": _number(r"(\d+) bytes stack", said),
            "barriers": len(re.findall(r"\bbar\.sync|\bbarrier\.sync", ptx))}  # fmt: skip


def _of_amd(code: str) -> dict[str, int]:
    return {"registers": _number(r"\.vgpr_count:\s+(\d+)", code),
            "stack": _number(r"\.private_segment_fixed_size:\s+(\d+)", code),
            "barriers": len(re.findall(r"\bs_barrier\b", code))}  # fmt: skip


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"expected {pattern} in what the compiler says, got {text[:300]}")
    return int(found[1])


def moved_bytes(classes: int, dtype: str, form: str, in_order: bool) -> dict[str, Any]:
    """Run rows in the interpreter (in this process) and count what is loaded and stored, a row.

    ``again`` is the part of the loads that an earlier load of the same row brought to the cache.
    """
    import numpy as np
    import torch
    from triton.runtime import interpreter

    from ida_lightning.isotonic.kernel.operators import launch
    from ida_lightning.label_mix import LabelMix

    rows, builder = plan(classes).rows, interpreter.interpreter_builder
    logits = 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))
    logits[:, :2] = torch.tensor([20.0, 15.0]) if in_order else torch.tensor([0.0, 2.0])
    values = (logits if form == "softmax" else logits.softmax(1)).to(getattr(torch, dtype))
    mix = LabelMix.pair(torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.int64), 0.7)
    moved = {"load": 0, "store": 0}
    seen: dict[str, list[Any]] = {"load": [], "store": []}
    load, store = builder.create_masked_load, builder.create_masked_store

    def note(kind: str, pointers: Any, mask: Any) -> None:
        width = np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize
        touched = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].ravel()
        moved[kind] += width * touched.size
        seen[kind].append(np.unique(touched) * 16 + width)  # an address and how much lies there

    def noted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        note("load", pointers, mask)
        return load(pointers, mask, *rest)

    def noted_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("store", pointers, mask)
        return store(pointers, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = noted_load, noted_store
    try:
        launch(values, *mix, 1.0 if form == "softmax" else None, 0.3 if form == "margin" else 0.0)
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
    first = {kind: int((np.unique(np.concatenate(parts)) % 16).sum()) for kind, parts in seen.items()}
    out = 4 if form == "softmax" else WIDTH[dtype]
    floor = rows * (classes * (WIDTH[dtype] + out) + 2 * (8 + 4))
    return {
        "classes": classes, "dtype": dtype, "form": form, "rows": "in order" if in_order else "wrong",
        "loaded": moved["load"] // rows, "again": (moved["load"] - first["load"]) // rows,
        "stored": moved["store"] // rows, "floor": floor // rows,
        "of_floor": round((first["load"] + moved["store"]) / floor, 3),
        "of_floor_without_cache": round((moved["load"] + moved["store"]) / floor, 3),
    }  # fmt: skip


def all_bytes(quick: bool) -> list[dict[str, Any]]:
    """Count for every size, in a process of its own, where Triton interprets."""
    command = [sys.executable, __file__, "--count", *(["--quick"] if quick else [])]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    counted: list[dict[str, Any]] = json.loads(done.stdout)
    return counted


def markdown(lines: Sequence[dict[str, Any]], counted: Sequence[dict[str, Any]]) -> str:
    """The two tables: for every target and size the most of all dtypes, k and forms; and the bytes of a row."""
    text = ["Compiled ahead of time, never run on a GPU: the most of all dtypes, numbers of ranked classes and forms",
            "that were compiled (ahead_of_time.csv). Registers and stack in bytes are a thread's; barriers wait for",
            "other warps, and are counted in the code, once for a loop.", "",
            "| target | classes | rows of a program | threads | registers | stack | barriers | compiled |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for target in TARGETS:
        for classes in SIZES:
            here = [line for line in lines if line["target"] == target and line["classes"] == classes]
            if here:
                most = {key: max(line[key] for line in here) for key in ("registers", "stack", "barriers")}
                text.append(f"| {target} | {classes:,} | {here[0]['rows']} | {here[0]['threads']} | "
                            f"{most['registers']} | {most['stack']} | {most['barriers']} | {len(here)} |")  # fmt: skip
    text += ["", "Bytes of a row, k = 2, against the floor (read once, written once). Rows of more than",
             f"{IN_REGISTERS:,} classes are read again for a softmax and where they are wrong: `again` of the loaded",
             "bytes were loaded by the same program before, and come from the cache if the rows in flight fit it.", "",
             "| classes | dtype | form | rows | loaded | again | stored | of the floor | without a cache |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for line in counted:
        figures = [f"{line[key]:,}" if isinstance(line[key], int) else str(line[key]) for key in line if key != "floor"]
        text.append("| " + " | ".join(figures) + " |")
    return "\n".join(text) + "\n"


def faults(lines: Sequence[dict[str, Any]], counted: Sequence[dict[str, Any]]) -> list[str]:
    """What is not as it should be: stack anywhere, too many threads, too many bytes for rows in order."""
    found = [f"stack: {line}" for line in lines if line["stack"]]
    found += [f"threads: {line}" for line in lines if line["threads"] > 1024]
    ordered = [line for line in counted if line["rows"] == "in order"]
    return found + [f"bytes: {line}" for line in ordered if line["of_floor"] > BYTES_BUDGET]


def main(argv: Sequence[str] | None = None) -> None:
    """Compile and count, write the files, and fail where the budgets do not hold."""
    parser = argparse.ArgumentParser(description="The kernel on GPUs that are not here.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="four cases")
    parser.add_argument(
        "--minutes", type=float, default=0, help="what would be compiled later is left out; 0: no limit"
    )
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.count:
        sizes = (10, 21_841) if options.quick else (10, 100, 1000, 8192, 21_841, 65_536)
        kinds = [(size, dtype, form, ok) for size in sizes for dtype in ("float32", "bfloat16")
                 for form in FORMS[:2] for ok in (True, False)]  # fmt: skip
        sys.stdout.write(json.dumps([moved_bytes(*kind) for kind in kinds]))
        return
    os.environ["TRITON_INTERPRET"] = "0"
    lines, begun = [], time.monotonic()
    for number, case in enumerate(cases(options.quick), 1):
        if options.minutes and time.monotonic() - begun > 60 * options.minutes:
            break
        sys.stderr.write(f"\r{number}: {' '.join(map(str, case))}      ")
        lines.append(compiled(case))
    sys.stderr.write("\n")
    counted = all_bytes(options.quick)
    for name, table in (("ahead_of_time.csv", lines), ("ahead_of_time_bytes.csv", counted)):
        with replacing(options.out / name) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    with replacing(options.out / "ahead_of_time.md") as unfinished:
        unfinished.write_text(markdown(lines, counted))
    sys.stdout.write(markdown(lines, counted))
    if wrong := faults(lines, counted):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
