"""Networks by timm name, and their weights."""

from ida_lightning.models.build import build_model, eval_mode
from ida_lightning.models.choice import chosen_outputs, known_outputs, outputs_in
from ida_lightning.models.named import has_new_head, is_of_a_hub
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
    "chosen_outputs",
    "describe",
    "eval_mode",
    "exportable",
    "failure",
    "fingerprint",
    "has_new_head",
    "is_of_a_hub",
    "known_outputs",
    "load_network",
    "load_weights",
    "logits_of",
    "outputs_in",
    "pretrained_input",
    "put_weights",
    "read_recipe",
    "try_network",
]
