"""Networks that read texts: those of transformers, and a small one that needs no other library."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ida_lightning.checks import require_extra, whole_numbers
from ida_lightning.errors import InputError, at_least, share_below_one
from ida_lightning.models.vocabulary import Vocabulary, note_vocabulary

TRANSFORMERS_PREFIX = "transformers:"


class TextCNN(nn.Module):
    """A small classifier of texts: words side by side, convolved, and the largest answer of each filter.

    Token 0 is padding, as with a tokenizer that is trained here: its embedding is zero and stays so.

    Args:
        num_classes: width of the output.
        vocab_size: how many tokens the tokenizer has, or more.
        width: of the embedding.
        filters: of every window.
        windows: how many tokens a filter sees.
        dropout: before the last layer.

    Raises:
        InputError: for values out of range.

    Example:
        >>> network = TextCNN(num_classes=6, vocab_size=300)
        >>> network(torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7)).shape
        torch.Size([2, 6])

    References:
        Kim, Convolutional neural networks for sentence classification, EMNLP 2014, arXiv 1408.5882.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        width: int = 64,
        filters: int = 64,
        windows: Sequence[int] = (1, 2, 3),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("width", width), ("filters", filters)):
            at_least(name, value, 1)
        self.windows = whole_numbers("windows", windows, 1, 1)
        self.embedding = nn.Embedding(at_least("vocab_size", vocab_size, 1), width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size - 1) for size in self.windows)
        self.dropout = nn.Dropout(share_below_one("dropout", dropout))
        self.head = nn.Linear(filters * len(self.windows), num_classes)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the layer whose output is mixed, by the name that it has in transformers."""
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of tokens ``(batch, length)``; where the mask is 0 there is nothing."""
        words = self.embedding(input_ids)
        words = (words * attention_mask.unsqueeze(-1).to(words.dtype)).transpose(1, 2)
        largest = [convolution(words).relu().amax(2) for convolution in self.convolutions]
        logits: Tensor = self.head(self.dropout(torch.cat(largest, 1)))
        return logits


def build_transformer(name: str, num_classes: int | None, args: dict[str, Any]) -> nn.Module:
    """Build a classifier of sequences out of transformers.

    Args:
        name: a kind of network, such as ``bert``, built from configuration with random weights; or a folder, or a name
            in the cache of Hugging Face: its configuration and, with ``pretrained: true``, its weights. Nothing is
            fetched.
        num_classes: width of the output; None for that of the configuration.
        args: of the configuration.

    Raises:
        InputError: for a name that is neither, weights that are not there, and where the extra ``text`` is missing.
    """
    require_extra("model", "text", f"{TRANSFORMERS_PREFIX}{name}", "transformers")
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification

    args = {**args, **({} if num_classes is None else {"num_labels": num_classes})}
    pretrained = args.pop("pretrained", False)
    if name in CONFIG_MAPPING:
        if pretrained:
            raise InputError(f"model: expected a folder or a name with weights for pretrained, got the kind {name!r}")
        return _from_config(AutoConfig.for_model(name, **args))
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True, **args)
        if not pretrained:
            return _from_config(config)
        network, found = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, local_files_only=True, output_loading_info=True
        )
    except OSError as error:
        near = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=3)
        kinds = f" or a kind of network such as {', '.join(near)}" if near else ""
        what = "its weights" if pretrained else "config.json"
        raise InputError(
            f"model: expected a folder with {what}, a name in the cache of Hugging Face (hf download {name} puts it "
            f"there){kinds}, got {name!r}"
        ) from error
    new_head = bool(found["missing_keys"] or found["mismatched_keys"])
    names = [str(label) for label in config.id2label.values()]
    vars(network)["pretrained_cfg"] = {
        "num_classes": 0 if new_head else config.num_labels,
        "label_names": None if names[0] == "LABEL_0" else names,
    }
    note_vocabulary(network, _vocabulary_of(name))
    return network.train()  # type: ignore[no-any-return]  # as every other network is built


def _from_config(config: Any) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    network: nn.Module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    return network


def _vocabulary_of(name: str) -> str | None:
    """Return the fingerprint of the tokenizer beside a network's weights, None where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, TypeError):
        return None
    return Vocabulary.of(tokenizer.get_vocab()).fingerprint
