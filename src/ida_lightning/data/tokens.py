"""From texts to numbers of tokens: a tokenizer that is there, or one that is trained on the training texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_lightning.checks import require_extra, text
from ida_lightning.errors import InputError, at_least, flag
from ida_lightning.models import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""The tokens beside those of texts that a trained tokenizer has, by their names in transformers."""
_LEAST = 256 + len(SPECIAL)  # every byte


@dataclass(frozen=True)
class Tokens:
    """How texts become numbers.

    Args:
        tokenizer: a folder with ``tokenizer.json``, or a name in the cache of Hugging Face; None trains one on the
            training texts: byte pairs, so no text has unknown letters, and equal texts make equal tokenizers.
        vocabulary: the most tokens of one that is trained.
        max_length: texts of more tokens lose their end.
        lowercase: whether one that is trained makes no difference between upper and lower case.

    Raises:
        InputError: for values out of range.

    Example:
        >>> Tokens(vocabulary=2000, max_length=32).tokenizer is None
        True
    """

    tokenizer: str | None = None
    vocabulary: int = 8000
    max_length: int = 128
    lowercase: bool = True

    def __post_init__(self) -> None:
        text("tokens.tokenizer", self.tokenizer, True)
        at_least("tokens.vocabulary", self.vocabulary, _LEAST)
        at_least("tokens.max_length", self.max_length, 3)
        flag("tokens.lowercase", self.lowercase)


class TextTokenizer:
    """Encodes texts, each for itself; padding is the batch's business.

    Args:
        backend: of the library ``tokenizers``.
        special: names of special tokens, as transformers call them; ``pad_token`` among them.
        max_length: of a text, in tokens.

    Attributes:
        pad_id: number of the token that fills a batch up.
        vocabulary: its tokens.
    """

    def __init__(self, backend: Tokenizer, special: dict[str, str], max_length: int) -> None:
        tokens = backend.get_vocab(with_added_tokens=True)
        self.backend, self.special, self.max_length = backend, special, max_length
        self.pad_id = tokens[special["pad_token"]]
        self.vocabulary = Vocabulary.of(tokens)
        backend.no_padding()
        backend.enable_truncation(max_length)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of every text's tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts))]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of rows of numbers, without special tokens."""
        return [text.strip() for text in self.backend.decode_batch([list(row) for row in ids])]

    def save(self, folder: Path) -> None:
        """Write what ``transformers.AutoTokenizer.from_pretrained`` reads."""
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=self.backend, model_max_length=self.max_length, **self.special
        )
        tokenizer.save_pretrained(folder)


def make_tokenizer(tokens: Tokens, training_texts: Sequence[str]) -> TextTokenizer:
    """Load a tokenizer, or train one.

    Raises:
        InputError: where the extra ``text`` is not installed, and for a tokenizer that is not there.
    """
    packages = ("tokenizers",) if tokens.tokenizer is None else ("tokenizers", "transformers")
    require_extra("tokens", "text", "a tokenizer", *packages)
    if tokens.tokenizer is None:
        return TextTokenizer(_trained(tokens, training_texts), SPECIAL, tokens.max_length)
    loaded = _loaded(tokens.tokenizer)
    special = {name: str(value) for name in SPECIAL if (value := getattr(loaded, name, None)) is not None}
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None or "pad_token" not in special:
        lacks = "tokenizer.json" if backend is None else "token for padding"
        raise InputError(f"tokens.tokenizer: expected one with a {lacks}, {tokens.tokenizer} has none")
    return TextTokenizer(backend, special, tokens.max_length)


def _loaded(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"tokens.tokenizer: expected a folder with tokenizer.json, or a name that is in the cache of Hugging Face "
            f"(hf download NAME puts it there), got {name!r}"
        ) from error


def _trained(tokens: Tokens, texts: Sequence[str]) -> Tokenizer:
    """Train byte pairs, which come out the same every time; the trainer of word pieces draws among equal ones."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if tokens.lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens.vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, last = SPECIAL["cls_token"], SPECIAL["sep_token"]
    numbers = [(token, list(SPECIAL.values()).index(token)) for token in (first, last)]  # they come first
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=numbers)
    return tokenizer
