"""What this package asks of a data module, and what a run's data module answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ida_lightning.inputs import Inputs, rows_in, take_rows, tensors_in
from ida_lightning.lightning_internals import attached_datamodule
from ida_lightning.mixing import InnerPlan
from ida_lightning.models import ImageInput, Vocabulary

INTERPOLATION = "bilinear"
"""How the data modules of this package resize images for evaluation."""
_SAMPLED_ITEMS = 16  # of a data set that is not in memory
_FEW = 12  # numbers of a row that are shown in words


@runtime_checkable
class _ReadByPosition(Protocol):
    """A data set whose rows are fetched by position, many at once."""

    def __getitems__(self, keys: list[int]) -> Any: ...
    def __len__(self) -> int: ...


@runtime_checkable
class DescribedData(Protocol):
    """A data module that says of its images and labels all that this package may ask.

    :class:`ida_lightning.data.MixingDataModule` is one. Any other data module trains too; what it does not say is
    None in :class:`DataFacts`, and what needs it says so.

    Attributes:
        class_names: what the network's outputs stand for, in order.
        mean: per channel, which was subtracted from pixel values from 0 to 1.
        std: per channel, by which the result was divided.
        image_size: height and width in pixels.
        crop: share of the short side of an image that evaluation sees of it, in the middle; 1 for all.
        batch_size: rows per batch and process.
        num_workers: processes that load.
        pool: how many mixes of each image follow the clean ones in a training batch.
        seed: of shuffling and all random draws.
        splits: data sets by name, ``train``, ``val``, ``test``: of uint8 images, or of what :meth:`normalise` takes.
        cycle: after how many epochs the same training pictures come again; None for never.
        keeps_plain: whether training batches know the unmixed images that they were made of, ``MixedBatch.plain``.
    """

    cycle: int | None
    keeps_plain: bool

    @property
    def class_names(self) -> Sequence[str]: ...  # noqa: D102 (described above, as those that follow)
    @property
    def mean(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def std(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def image_size(self) -> int: ...  # noqa: D102
    @property
    def crop(self) -> float: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def num_workers(self) -> int: ...  # noqa: D102
    @property
    def pool(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def splits(self) -> Mapping[str, Any]: ...  # noqa: D102

    def pictures(self) -> Mapping[str, Any]:
        """Return all that decides about the pictures of a training batch, beside epoch, batch and process."""

    def normalise(self, images: Tensor) -> Tensor:
        """Return float images with zero mean and unit variance from uint8 ones."""

    def denormalise(self, images: Tensor) -> Tensor:
        """Return pixel values from 0 to 1 from normalised images."""


class DataFacts(NamedTuple):
    """What a data module says, member by member of :class:`DescribedData`; None for what is unknown.

    Example:
        >>> class Data(L.LightningDataModule):
        ...     class_names, batch_size = ("cat", "dog"), 16
        >>> facts = facts_from(Data())
        >>> facts.class_names, facts.batch_size, facts.pool, facts.image_input
        (['cat', 'dog'], 16, None, None)
    """

    class_names: list[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | None = None
    crop: float | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    pool: int | None = None
    seed: int | None = None
    splits: Mapping[str, Any] | None = None
    cycle: int | None = None
    keeps_plain: bool | None = None
    vocabulary: Vocabulary | None = None
    pictures: Callable[[], Mapping[str, Any]] | None = None
    normalise: Callable[[Any], Any] | None = None
    denormalise: Callable[[Tensor], Tensor] | None = None
    describe: Callable[[Inputs], list[str] | None] | None = None
    inner_layers: Sequence[str] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the images that a network sees, or None unless all are known."""
        if self.mean is None or not isinstance(self.image_size, int):
            return None
        return len(self.mean), self.image_size, self.image_size

    @property
    def image_input(self) -> ImageInput | None:
        """What images a network sees, or None unless mean, standard deviation and size are all known."""
        if self.mean is None or self.std is None or self.image_size is None:
            return None
        return ImageInput(tuple(self.mean), tuple(self.std), int(self.image_size))

    def shown(self, inputs: Inputs, rows: Tensor, inner: Sequence[InnerPlan] = ()) -> Tensor | list[str]:
        """Return rows as a person looks at them: in the data module's words, or as pictures of their numbers.

        Args:
            inputs: of a batch.
            rows: int64, which are looked at.
            inner: see :class:`MixedBatch`; what a network mixes inside is shown mixed, or as a sum of texts.

        Returns:
            A text for every row, or values from 0 to 1, ``(rows, 1 or 3, height, width)``.
        """
        if not inner:
            return self._shown(take_rows(inputs, rows))
        partner, weight = (field[rows] for field in inner[0])
        pictures: Tensor | None = None
        texts = [""] * len(rows)
        for column, members in enumerate((rows, *partner.T)):
            part, shares = self._shown(take_rows(inputs, members)), weight[:, column]
            if isinstance(part, Tensor):
                part = part * shares[:, None, None, None]
                pictures = part if pictures is None else pictures + part
            else:
                named = [f"{share:.2f} × {text}" if share > 0 else "" for share, text in zip(shares, part, strict=True)]
                texts = ["\n+ ".join(filter(None, pair)) for pair in zip(texts, named, strict=True)]
        return texts if pictures is None else pictures

    def _shown(self, inputs: Inputs) -> Tensor | list[str]:
        words = None if self.describe is None else self.describe(inputs)
        if words is not None:
            return words
        floats = [tensor for tensor in tensors_in(inputs) if tensor.is_floating_point()]
        if not floats:
            named = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
            rows = range(rows_in(inputs))
            return [" ".join(_numbers(name, tensor[row]) for name, tensor in named.items()) for row in rows]
        numbers = floats[0].detach().float()
        if numbers.ndim == 4 and self.denormalise is not None:
            numbers = self.denormalise(numbers).clamp(0, 1)
        else:
            numbers = numbers.reshape(len(numbers), *(numbers.shape[1:] if numbers.ndim == 4 else _as_plane(numbers)))
            low, high = numbers.amin((1, 2, 3), keepdim=True), numbers.amax((1, 2, 3), keepdim=True)
            numbers = (numbers - low) / (high - low).clamp(min=1e-6)
        return numbers if numbers.shape[1] in (1, 3) else numbers.mean(1, keepdim=True)

    def example(self) -> Inputs | None:
        """Return two rows as a network sees them, not augmented: of the training split if there is one.

        Blank pictures where splits cannot be read by position but the form of pictures is known; None where nothing is.
        """
        splits = self.splits or {}
        names = [name for name in ("train", *splits) if isinstance(splits.get(name), _ReadByPosition)]
        split = next((splits[name] for name in names if len(splits[name])), None)
        if split is None:
            return None if self.input_shape is None else torch.zeros(2, *self.input_shape)
        with isolate_rng(include_cuda=False):  # a transform of somebody else's may draw
            inputs: Inputs = split.__getitems__([0, min(1, len(split) - 1)]).inputs
        return inputs if self.normalise is None else self.normalise(inputs)


def _as_plane(numbers: Tensor) -> tuple[int, int, int]:
    """Return the form in which a row of no picture is drawn: a line for a vector, steps downwards for a sequence."""
    return (1, 1, -1) if numbers.ndim <= 2 else (1, numbers.shape[1], -1)


def _numbers(name: str, row: Tensor) -> str:
    """Return the first numbers of a row in words."""
    values = row.flatten().tolist()
    return f"{name} {' '.join(map(str, values[:_FEW]))}{' …' if len(values) > _FEW else ''}".strip()


@runtime_checkable
class _Fingerprinted(Protocol):
    def fingerprint(self) -> str: ...


def facts_from(data: object) -> DataFacts:
    """Read what a data module says; anything else, None included, says nothing."""
    facts = DataFacts(**{name: getattr(data, name, None) for name in DataFacts._fields})
    return facts._replace(class_names=None if facts.class_names is None else list(facts.class_names))


def facts_of(trainer: L.Trainer | None) -> DataFacts:
    """Read what the data module of a Trainer says; without a Trainer, or with loaders, nothing is known."""
    return facts_from(None if trainer is None else attached_datamodule(trainer))


def data_fingerprint(dataset: Any) -> str:
    """Compute the SHA-256 of a data set: of all of it if in memory, else of its length and sixteen spread items.

    A stream, of which no item can be asked for, says it itself.
    """
    if isinstance(dataset, _Fingerprinted):
        return dataset.fingerprint()
    digest = hashlib.sha256(f"{type(dataset).__name__} {len(dataset)};".encode())
    tensors: list[Any] = [vars(dataset).get(name) for name in ("images", "labels")]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        count = min(_SAMPLED_ITEMS, len(dataset))
        batch = dataset.__getitems__([i * len(dataset) // count for i in range(count)])
        tensors = [*tensors_in(batch.inputs), batch.label_mix.labels]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
