"""Which token a number stands for: what a network of texts was built and trained for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from ida_lightning.errors import InputError

_NOTE = "_ida_trained_with"


@runtime_checkable
class ReadsTokens(Protocol):
    """A network that says which layer makes vectors of tokens, as those of transformers do."""

    def get_input_embeddings(self) -> nn.Module:
        """Return that layer."""


class Vocabulary(NamedTuple):
    """The tokens of a tokenizer.

    Attributes:
        size: their numbers are below it.
        fingerprint: SHA-256 of all tokens with their numbers: equal ones mean the same by a number.
    """

    size: int
    fingerprint: str

    @classmethod
    def of(cls, tokens: Mapping[str, int]) -> Vocabulary:
        """Return the vocabulary of these tokens with their numbers.

        Example:
            >>> Vocabulary.of({"[PAD]": 0, "who": 1}).size
            2
        """
        digest = hashlib.sha256(json.dumps(sorted(tokens.items())).encode())
        return cls(max(tokens.values()) + 1, digest.hexdigest())


def note_vocabulary(network: nn.Module, fingerprint: str | None) -> None:
    """Note with which vocabulary the weights of a network were trained; None for nothing known."""
    vars(network)[_NOTE] = fingerprint  # in no state dict


def check_vocabulary(network: nn.Module, vocabulary: Vocabulary, name: str) -> None:
    """Check that a network reads the numbers of a tokenizer as its tokens.

    Args:
        network: with an embedding of tokens (``get_input_embeddings``, as in transformers); others are not checked.
        vocabulary: of the data's tokenizer.
        name: whose network it is, for the message.

    Raises:
        InputError: for fewer rows in the embedding than tokens, and for weights of another vocabulary.

    Example:
        >>> from ida_lightning.models import TextCNN
        >>> check_vocabulary(TextCNN(num_classes=6, vocab_size=300), Vocabulary(400, ""), "student")
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: student: expected a network for the 400 tokens of the data's tokenizer, it has 300; ...
    """  # noqa: E501
    embedding = network.get_input_embeddings() if isinstance(network, ReadsTokens) else None
    rows = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else vocabulary.size
    if rows < vocabulary.size:
        raise InputError(
            f"{name}: expected a network for the {vocabulary.size} tokens of the data's tokenizer, it has {rows}; give "
            "vocab_size among its arguments, or the network's own tokenizer as tokens.tokenizer"
        )
    known = vars(network).get(_NOTE)
    if known not in (None, vocabulary.fingerprint):
        raise InputError(
            f"{name}: expected weights that were trained with the data's tokenizer, got those of another vocabulary "
            f"({known[:12]}, the data's is {vocabulary.fingerprint[:12]}); give the same tokens as its training"
        )
