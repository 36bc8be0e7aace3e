"""A network that reads texts as the folder that transformers loads, checked on texts with that folder's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ida_lightning.cli import IDACLI
from ida_lightning.data import TextDataModule
from ida_lightning.data.tokens import TextTokenizer
from ida_lightning.errors import InputError
from ida_lightning.models import Description, check_vocabulary, logits_of, read_description
from ida_lightning.studies.export.parity import Parity, compared
from ida_lightning.studies.export.source import read_own_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_BATCH = 64


class TextSource:
    """A network of transformers with its weights, its tokenizer, and texts to check the export with.

    Args:
        options: of the command line.
        run: of the config.

    Raises:
        InputError: without a config of texts, for a network of another library, and weights of another vocabulary.
    """

    def __init__(self, options: Mapping[str, Any], run: IDACLI | None) -> None:
        data = None if run is None else run.datamodule
        if run is None or not isinstance(data, TextDataModule):
            got = "none" if run is None else f"one of {type(data).__name__}"
            raise InputError(f"config: expected the config of the fit on texts, whose tokenizer is exported, got {got}")
        path = str(options["checkpoint"])
        self.description: Description = read_description(path)
        network = read_own_network(path, run)
        if not hasattr(network, "save_pretrained"):
            raise InputError(f"to: expected a network of transformers, got {type(network).__name__}")
        data.setup("validate")
        tokenizer = data.tokenizer
        assert tokenizer is not None
        check_vocabulary(network, tokenizer.vocabulary, "checkpoint")
        self.network: PreTrainedModel = network.eval()  # type: ignore[assignment]
        self.tokenizer: TextTokenizer = tokenizer
        self.class_names = data.class_names
        self.name = next((name for name in ("test", "val", "train") if name in data.splits), "")
        self.split: Any = data.splits[self.name]

    def write(self, folder: Path) -> None:
        """Write weights, configuration with the names of the classes, and tokenizer."""
        config = self.network.config
        config.id2label = dict(enumerate(self.class_names))
        config.label2id = {name: number for number, name in config.id2label.items()}
        self.network.save_pretrained(folder)
        self.tokenizer.save(folder)

    @torch.no_grad()
    def compare(self, folder: Path, count: int) -> Parity:
        """Load the folder as its user will, tokenizer and all, and compare the answers to texts."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        theirs: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        count = min(count, len(self.split))
        rows = [number * len(self.split) // count for number in range(count)]
        expected, got = [], []
        for start in range(0, count, _BATCH):
            chosen = rows[start : start + _BATCH]
            expected.append(logits_of(self.network(**self.split.__getitems__(chosen).inputs), "network"))
            texts = [self.split.texts[row] for row in chosen]
            encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            got.append(logits_of(theirs(**encoded), "network"))
        origin = f"{self.name} texts, read by the tokenizer of the folder"
        return compared(torch.cat(expected), torch.cat(got), self.split.labels[rows], origin, [min(count, _BATCH)])
