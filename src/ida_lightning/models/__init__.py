"""Networks by timm name, and their weights."""

from ida_lightning.models.build import build_model, eval_mode
from ida_lightning.models.weights import (
    ImageInput,
    Weights,
    digest_of_file,
    fingerprint,
    load_weights,
    pretrained_input,
    put_weights,
)

__all__ = [
    "ImageInput",
    "Weights",
    "build_model",
    "digest_of_file",
    "eval_mode",
    "fingerprint",
    "load_weights",
    "pretrained_input",
    "put_weights",
]
