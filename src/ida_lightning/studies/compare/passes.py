"""A second view of a comparison: every method trained on as many images as the reference, instead of as many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ida_lightning.studies.compare.cells import Result


def equal_passes(
    configs: Mapping[str, dict[str, Any]], results: Sequence[Result], reference: str
) -> dict[str, dict[str, Any]]:
    """Return the fit configs of those methods that train their student on more or fewer images than the reference.

    Their ``epoch_factor`` makes the numbers equal, as far as whole epochs can.

    Args:
        configs: of the methods, with equal epochs.
        results: of their cells.
        reference: the method whose number the others get.

    Returns:
        Configs by method; empty where all methods are equal, or nothing is known of the reference.
    """
    passes = mean_passes(results)
    scaled = {}
    for name in configs.keys() & passes.keys() if reference in passes else ():
        config = configs[name]
        epochs, factor = config["trainer"]["max_epochs"], config.get("epoch_factor", 1.0)
        wanted = factor * passes[reference] / passes[name]
        if epochs and round(epochs * wanted) != round(epochs * factor):
            scaled[name] = {**config, "epoch_factor": round(max(wanted, 1 / epochs), 6)}
    return {name: scaled[name] for name in configs if name in scaled}


def mean_passes(results: Sequence[Result]) -> dict[str, float]:
    """Return the images that each method trained its student on, the mean over seeds; 0 is not known."""
    counts: dict[str, list[int]] = {}
    for result in results:
        if result.get("student_passes"):
            counts.setdefault(result["method"], []).append(result["student_passes"])
    return {name: fmean(numbers) for name, numbers in counts.items()}
