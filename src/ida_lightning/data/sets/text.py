"""The data module of labelled texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ida_lightning.data.base import LabelledDataModule
from ida_lightning.data.in_memory import carve
from ida_lightning.data.text_files import LabelledTexts, TextFields, check_source, read_texts
from ida_lightning.data.texts import Texts
from ida_lightning.data.tokens import TextTokenizer, Tokens, make_tokenizer
from ida_lightning.errors import InputError, is_a, share
from ida_lightning.inputs import Inputs
from ida_lightning.models import Vocabulary

# Not a Sequence, for which the command line would read the file as a list.
Source = str | Any


class TextDataModule(LabelledDataModule):
    """Reads texts with one label each, and gives the numbers of their tokens, padded to the longest of a batch.

    Files are tables with a header (``*.csv``, ``*.tsv``), objects by the line (``*.jsonl``), or a label, a space and
    the text (``*.txt``); from Python also data sets of mappings or pairs, such as those of Hugging Face. Numbers
    of tokens cannot be mixed: :class:`~ida_lightning.methods.InnerMixingCallback` has the networks mix what one of
    their layers makes of them, such as the embedding.

    Args:
        train: the training texts: path of a file, or a data set.
        val: validation texts; None carves ``val_share`` from ``train``, stratified and fixed.
        test: test texts; None for no test split.
        fields: where text and label stand, and what the labels stand for.
        tokens: which tokenizer, and how long a text may be.
        val_share: of the training texts, where ``val`` is None; 0 for no validation, 1 for nothing else. None takes a
            tenth, but at least five a class where there are enough, and at most 10,000.
        kwargs: see :class:`LabelledDataModule`; ``mixing`` is of kind ``mixup`` or ``none``, rectangles are for
            pictures.

    Attributes:
        tokenizer: once the splits are loaded.

    Raises:
        InputError: for values out of range, another kind of mixing and, when the texts are read, a file that is not
            there, of another form or encoding, empty texts, one class alone, and classes that only ``val`` or ``test``
            have, each by file and line.

    Example:
        >>> pairs = 5 * [("who was it ?", "HUM"), ("where is that ?", "LOC")]
        >>> data = TextDataModule(pairs, tokens=Tokens(vocabulary=300), val_share=0.2, batch_size=4)
        >>> data.setup("fit")
        >>> {name: tensor.shape for name, tensor in next(iter(data.val_dataloader())).inputs.items()}
        {'input_ids': torch.Size([2, 6]), 'attention_mask': torch.Size([2, 6])}
    """

    unit = "texts"

    def __init__(
        self,
        train: Source,
        val: Source | None = None,
        test: Source | None = None,
        fields: TextFields = TextFields(),  # noqa: B008 (frozen)
        tokens: Tokens = Tokens(),  # noqa: B008 (frozen)
        val_share: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.mixing.kind not in ("mixup", "none"):
            kind = self.mixing.kind
            raise InputError(f"mixing.kind: expected mixup or none for texts, which have no rectangles, got {kind!r}")
        self.fields = is_a("fields", fields, TextFields)
        self.tokens = is_a("tokens", tokens, Tokens)
        self.val_share = None if val_share is None else share("val_share", val_share)
        given = {"train": train, "val": val, "test": test}
        self.sources = {
            name: check_source(name, source) for name, source in given.items() if name == "train" or source is not None
        }
        self.tokenizer: TextTokenizer | None = None
        self._train: LabelledTexts | None = None

    def _read_train(self) -> LabelledTexts:
        if self._train is None:
            self._train = read_texts("train", self.sources["train"], self.fields)
        return self._train

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Return what the labels stand for: the names given, or the labels of the training texts, sorted."""
        if self.fields.class_names is not None:
            return list(self.fields.class_names)
        names = set(self._read_train().labels)
        numbers = all(name.isdecimal() for name in names)
        if len(names) < 2:
            raise InputError(f"train: expected texts of two classes or more, got {', '.join(names)} alone")
        return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))

    def load(self) -> dict[str, Texts]:
        """Read the files, train or load the tokenizer, and encode all texts."""
        names = self.class_names
        read = {name: self._read_train() if name == "train" else read_texts(name, source, self.fields)
                for name, source in self.sources.items()}  # fmt: skip
        numbers = {name: _numbered(name, split, names) for name, split in read.items()}
        self.origins = {name: str(source) for name, source in self.sources.items() if isinstance(source, Path)}
        rows = {name: np.arange(len(split.texts)) for name, split in read.items()}
        if "val" not in rows:
            rows["train"], rows["val"] = self._carved(numbers["train"], names)
            self.origins["val"] = f"{len(rows['val']) / len(read['train'].texts):.1%} of the training texts, stratified"
            read["val"], numbers["val"] = read["train"], numbers["train"]
        chosen = {name: [read[name].texts[row] for row in rows[name]] for name in rows if len(rows[name])}
        self.tokenizer = make_tokenizer(self.tokens, chosen.get("train", read["train"].texts))
        return {
            name: Texts(texts, self.tokenizer.encode(texts), numbers[name][rows[name]], self.tokenizer.pad_id)
            for name, texts in chosen.items()
        }

    def _carved(self, labels: Tensor, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        counts = labels.bincount(minlength=len(names))
        if self.val_share not in (0, 1) and (counts == 1).any():
            name = names[int((counts == 1).int().argmax())]
            raise InputError(
                f"val_share: expected two texts a class or more to divide, got one of {name!r}; give val, or 0 for none"
            )
        return carve(labels, self.val_share)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Return the tokens of the tokenizer; None before :meth:`setup`."""
        return None if self.tokenizer is None else self.tokenizer.vocabulary

    def pictures(self) -> dict[str, Any]:
        """Return all that decides about the inputs of a training batch, beside epoch, batch and process."""
        return {**super().pictures(), "vocabulary": None if self.vocabulary is None else self.vocabulary.fingerprint}

    def describe(self, inputs: Inputs) -> list[str]:
        """Return the texts that tokens stand for, for the pages that show some."""
        assert self.tokenizer is not None
        assert isinstance(inputs, Mapping)
        return self.tokenizer.decode(inputs["input_ids"].tolist())


def _numbered(name: str, read: LabelledTexts, names: list[str]) -> Tensor:
    """Return the labels as numbers of classes."""
    numbers = {title: number for number, title in enumerate(names)}
    if not numbers.keys() & set(read.labels):  # numbers in the file, names in the config
        numbers |= {str(number): number for number in range(len(names))}
    for label, place in zip(read.labels, read.places, strict=True):
        if label not in numbers:
            of = "fields.class_names" if name == "train" else "the training texts"
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            raise InputError(f"{name}: expected labels of {of} ({shown}), got {label!r} in {place}")
    return torch.tensor([numbers[label] for label in read.labels])
