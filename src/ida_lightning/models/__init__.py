"""Networks by name, and their weights."""

from ida_lightning.models.build import build_model, eval_mode
from ida_lightning.models.choice import chosen_outputs, known_outputs, outputs_in
from ida_lightning.models.description import Description, ImageInput, describe, pretrained_input
from ida_lightning.models.layers import find_layer, layer_names
from ida_lightning.models.loading import NetworkFile, load_network, load_student, read_description
from ida_lightning.models.named import has_new_head, is_of_a_hub
from ida_lightning.models.outputs import check_logits, converted, failure, logits_of, run_network, try_network
from ida_lightning.models.text_networks import TextCNN
from ida_lightning.models.vocabulary import Vocabulary, check_vocabulary, note_vocabulary
from ida_lightning.models.weights import (
    Weights,
    exportable,
    fingerprint,
    fitting_tensors,
    load_weights,
    put_weights,
)

__all__ = [
    "Description",
    "ImageInput",
    "NetworkFile",
    "TextCNN",
    "Vocabulary",
    "Weights",
    "build_model",
    "check_logits",
    "check_vocabulary",
    "chosen_outputs",
    "converted",
    "describe",
    "eval_mode",
    "exportable",
    "failure",
    "find_layer",
    "fingerprint",
    "fitting_tensors",
    "has_new_head",
    "is_of_a_hub",
    "known_outputs",
    "layer_names",
    "load_network",
    "load_student",
    "load_weights",
    "logits_of",
    "note_vocabulary",
    "outputs_in",
    "pretrained_input",
    "put_weights",
    "read_description",
    "run_network",
    "try_network",
]
