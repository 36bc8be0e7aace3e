"""Every public constructor and function that needs Lightning meets wrong values, derived from its signature.

The callables are found by walking what the package exports, so that a new one is swept as soon as it is there.
"""

import importlib
import inspect
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pytest
import torch
import typing_extensions
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

import ida_lightning
from ida_lightning import InputError, IsotonicSoftLabelCallback
from ida_lightning.mixing import Mixing
from ida_lightning.models import Description, ImageInput, NetworkFile, Weights
from tests.helpers.networks import TinyNet
from tests.helpers.streams import Pixels

nan, inf = float("nan"), float("inf")
ROOMS = ("callbacks", "checkpoint_io", "data", "methods", "modules")
# Plain records, which are checked by whoever takes them.
RECORDS = {Description, ImageInput, NetworkFile, Weights}
# What somebody may take for the right thing; a signature says for which of them that is wrong.
POOL: list[Any] = [
    *(None, "text", "3", "no", "", b"bytes", object(), 1j, True, False, 1, 0, -1, 1.5, 0.0, -1.0, 10**400, -(10**30)),
    *({}, {"b": 1}, {3: 1}, {"a"}, [], [[0.5]], [None], (), (1,), ("a",), (nan,), print, type, nn.Linear),
    *(nan, inf, -inf, np.float64(nan), torch.tensor(2), torch.tensor(0.5), np.zeros(3)),
    *(torch.optim.SGD, Path("nowhere"), Mixing("none")),
]  # fmt: skip
# Numbers that no argument takes, whatever its type says.
NO_NUMBERS = {"float": (nan, inf, -inf, -1.0, 10**400, -(10**30)), "int": (-1, -(10**30))}
# Further values out of range, by the name of the argument.
SHARES = dict.fromkeys(
    ("strength", "share", "margin", "start", "end", "until", "fraction", "transfer", "val_share", "erasing"),
    (-0.1, 1.1),
)
OPEN_SHARES = dict.fromkeys(("decay", "warmup"), (-0.1, 1.0))
POSITIVE_SHARES = dict.fromkeys(("ratio", "min_scale", "crop"), (0, 0.0, -0.1, 1.1))
COUNTS = dict.fromkeys(
    (
        *("batch_size", "image_size", "channels", "in_channels", "num_classes", "top_k", "rows"),
        *("every_n_epochs", "every_n_steps", "lr_reference_batch", "hessian_rows"),
    ),
    (0,),
)
COLOURS = {"mean": ((), (0.5,) * 4, ("a",) * 3, (nan,) * 3, (127.5,) * 3, (None,) * 3, 0.5)}
COLOURS["std"] = (*COLOURS["mean"], (0.0,) * 3, (-0.1,) * 3)
OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    **SHARES,
    **OPEN_SHARES,
    **POSITIVE_SHARES,
    **COUNTS,
    **COLOURS,
    "temperature": (0, 0.0),
    "damping": (0, 0.0),
    "eta": (0, 1, 0.0, 2.0),
    "magnitude": (31,),
    "val_images": (0,),
    "classes": ([0], [0, 0], [0, 100], ["a", "b"], [0.0, 1.5]),
    "class_names": (["a", 1], [None, None]),
    "epochs": ((), (0.5,), ("a",), (-1,)),
    "milestones": ([-1], [0.5], ["a"], [1, 2]),
    "folder": ("",),
    "name": ("", "a b", "a/b", "x.y"),
    "seed": (2**40, 99999999999),
}
# Arguments that have to be given.
PAIRS = [(torch.full((3, 8, 8), 20 * label, dtype=torch.uint8), label) for label in 10 * [0, 1, 2]]
TRAINER = L.Trainer(accelerator="cpu", barebones=True)
RIGHT: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("teacher", "student", "model", "network"), TinyNet),
    **dict.fromkeys(("mean", "std"), lambda: (0.5, 0.5, 0.5)),
    **dict.fromkeys(("root", "folder"), lambda: "."),
    "num_classes": lambda: 4,
    "vocab_size": lambda: 20,
    "image_size": lambda: 8,
    "class_names": lambda: ["a", "b", "c"],
    "layers": lambda: "layer1",
    "inputs": lambda: torch.zeros(3, 5),
    "labels": lambda: torch.arange(3),
    "train": lambda: PAIRS,
    "method": IsotonicSoftLabelCallback,
    "path": lambda: "file.safetensors",
    "weights": lambda: Weights(TinyNet().state_dict()),
    **dict.fromkeys(("start", "end"), lambda: 0.5),
    "optimizer": lambda: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1),
    "schedulers": lambda: [ConstantLR, ConstantLR],
    "milestones": lambda: [1],
    "trainer": lambda: TRAINER,
    "urls": lambda: ["a.tar"],
}


class NamedPixels(Pixels):
    """A stream that says what its labels stand for."""

    def class_names(self):
        return ["a", "b", "c", "d"]


RIGHT_OF = {(ida_lightning.StreamingDataModule, "train"): NamedPixels}


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield what the package and its rooms export and can be called, once each, by name."""
    seen = set()
    for room in (ida_lightning, *(importlib.import_module(f"ida_lightning.{room}") for room in ROOMS)):
        for name in getattr(room, "__all__", None) or [name for name in vars(room) if not name.startswith("_")]:
            thing = getattr(room, name)
            home = getattr(thing, "__module__", "").split(".")
            ours = home[0] == "ida_lightning" and len(home) > 1 and (home[1] in ROOMS or home[1] == "models")
            if ours and callable(thing) and thing not in seen and not inspect.isabstract(thing):
                seen.add(thing)
                yield name, thing


def hints_of(call: Any) -> dict[str, Any]:
    """Return the types of all arguments, of those too that are handed on to a base class or are short names."""
    function = call.__init__ if isinstance(call, type) else call
    hints: dict[str, Any] = {}
    owners = [cls for cls in call.__mro__ if "__init__" in vars(cls)] if isinstance(call, type) else [None]
    for owner in owners:
        function = vars(owner)["__init__"] if owner is not None else call
        rest = None
        types_of = typing.get_type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                rest = types_of.get(name)
            elif parameter.kind is not parameter.VAR_POSITIONAL and name != "self" and name in types_of:
                hints.setdefault(name, types_of[name])
        if typing.is_typeddict(fields := next(iter(typing_extensions.get_args(rest)), None)):
            hints.update({k: v for k, v in typing.get_type_hints(fields).items() if k not in hints})
        if owner is None or rest is not Any or not owner.__module__.startswith("ida_lightning"):
            break
    return hints


def fits(hint: Any, value: Any) -> bool:
    """Say whether a value is of a type; lists and tuples, and paths and texts, stand for each other."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(part, value) for part in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, (str, Path))
    if origin in (list, tuple, Sequence, Iterable):
        entry = inner[0] if inner else Any
        return isinstance(value, (list, tuple)) and all(fits(entry, part) for part in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(inner[0], key) for key in value)
    if origin is Callable:
        return callable(value)
    return isinstance(value, type(None) if hint is None else origin or hint)


def must_be_refused(hint: Any, value: Any) -> bool:
    """Say whether a value is wrong for an argument: by its type, or as no argument takes such a number."""
    if not fits(hint, value):
        return True
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return value < 0 or not value < 10**300  # NaN too


def outcome(call: Callable[..., Any], given: dict[str, Any], names: Collection[str]) -> tuple[str, str]:
    """Return what came of a call: ``right`` where it was accepted, ``clear line`` or ``raw``, with its message."""
    try:
        answer = call(**given)
    except InputError as error:
        named = any(re.search(rf"(?<![A-Za-z0-9])({ALIASES.get((call, key), key)})\b", str(error)) for key in names)
        return ("clear line" if named else "unnamed"), str(error)
    except BaseException as error:  # noqa: BLE001 (the point of the test)
        return "raw", f"{type(error).__name__}: {error}"
    return "right", repr(answer)[:60]


# What a message calls the argument of a group: by the group, and by its short name.
ALIASES = {
    (ida_lightning.Teacher, "network"): "teacher",
    (ida_lightning.Teacher, "allow_other"): "allow_other_teacher",
    (ida_lightning.Student, "network"): "student",
}


# Which outputs of a teacher are the student's classes; which of them it has is known when it is built.
FITTING = {(ida_lightning.Teacher, "classes"): ("[0]", "[0, 100]", "['a', 'b']")}
TOTAL: Counter[str] = Counter()


def sweep(call: Callable[..., Any]) -> tuple[Counter[str], list[str]]:
    """Try every value for every argument; return how often what came of it, and what was wrong."""
    hints, figures, faults = hints_of(call), Counter[str](), []
    needed = [name for name, p in inspect.signature(call).parameters.items() if p.default is p.empty and p.kind < 2]
    for name, hint in hints.items():
        for value in (*POOL, *OUT_OF_RANGE.get(name, ())):
            given = {key: RIGHT_OF.get((call, key), RIGHT.get(key))() for key in needed}
            wrong = must_be_refused(hint, value) or any(value is other for other in OUT_OF_RANGE.get(name, ()))
            wrong = wrong and repr(value) not in FITTING.get((call, name), ())
            # A value that is right by itself may not go with another one, and then either may be named.
            came, said = outcome(call, {**given, name: value}, [name] if wrong else hints)
            came = "silently wrong" if came == "right" and wrong else came
            figures[came] += 1
            if came not in ("right", "clear line"):
                faults.append(f"{name}={value!r:.40}: {came}: {said:.150}")
    return figures, faults


@pytest.fixture(autouse=True)
def _files():
    """What paths lead to, in an empty folder."""
    save_file(TinyNet().state_dict(), RIGHT["path"]())


@pytest.mark.parametrize("call", dict(callables()).values(), ids=dict(callables()))
def test_wrong_values_are_refused_by_name(call):
    figures, faults = sweep(call)
    TOTAL.update(figures)
    assert not faults, "\n".join(faults)


def test_sweep_is_large_and_finds_what_is_exported():
    found = dict(callables())
    assert {"DistillationModule", "ImageFolderDataModule", "Ramp", "load_network", "write_whole_checkpoints"} <= {
        *found
    }
    assert sum(len(POOL) for call in found.values() for _ in hints_of(call)) > 6000
    print("Lightning sweep:", dict(TOTAL))  # noqa: T201 (pytest -rP shows it)
