"""Networks by timm name, and their weights."""

from ida_lightning.models.build import build_model, eval_mode
from ida_lightning.models.outputs import check_logits, failure, logits_of, try_network
from ida_lightning.models.recipe import NetworkFile, Recipe, describe, load_network, read_recipe
from ida_lightning.models.weights import (
    ImageInput,
    Weights,
    exportable,
    fingerprint,
    load_weights,
    pretrained_input,
    put_weights,
)

__all__ = [
    "ImageInput",
    "NetworkFile",
    "Recipe",
    "Weights",
    "build_model",
    "check_logits",
    "describe",
    "eval_mode",
    "exportable",
    "failure",
    "fingerprint",
    "load_network",
    "load_weights",
    "logits_of",
    "pretrained_input",
    "put_weights",
    "read_recipe",
    "try_network",
]
