"""The data module of data that is too large for one disk: shards that are read in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import pixel_deviations, pixel_means, texts
from ida_lightning.data.decoded import middle_of
from ida_lightning.data.decoding import ImageDecoding
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.data.streaming.loader import StreamLoader, StreamSplit
from ida_lightning.data.streaming.stream import ImageStream, StreamShare
from ida_lightning.errors import InputError, at_least, flag, is_a, kind_of, positive_share
from ida_lightning.mixing import MixedBatch


@dataclass(frozen=True)
class Crops:
    """What a network sees of streamed images.

    Args:
        image_size: height and width of the crops in pixels.
        min_scale: the smallest share of an image's area that a random crop may take; 1 for all that fits.
        mean: per channel, for pixel values from 0 to 1; those of ImageNet.
        std: likewise.

    Raises:
        InputError: for values out of range.
    """

    image_size: int = 224
    min_scale: float = 0.08
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        at_least("image_size", self.image_size, 1)
        positive_share("min_scale", self.min_scale)
        pixel_means("mean", self.mean, 3)
        pixel_deviations("std", self.std, 3)


class StreamingDataModule(MixingDataModule):
    """Reads images from shards, by LitData, WebDataset or Hugging Face, for data that is too large for one disk.

    Images are decoded and cropped by worker processes as :class:`ImageFolderDataModule` does it, augmented and mixed on
    the device as everywhere. In training every image comes once an epoch, in one process and worker, except the few
    that fill no batch of their worker. Order and random crops depend on (seed, epoch) and the image's id, all else on
    (seed, epoch, batch, rank).

    A run that stopped in the middle of an epoch goes on exactly, with as many processes and workers, the same batch
    size and the same shards; with others it is refused. Nothing can be asked by an image's position, so data selection
    and CRD refuse a stream.

    Args:
        train: the training images.
        val: validation images, read in order; None for no validation.
        test: likewise, for tests and predictions.
        class_names: what the labels 0, 1, ... stand for; None asks the training shards.
        crops: size, normalisation and random crops.
        allow_inexact_resume: go on in the middle of an epoch also where some of its images may be repeated and others
            left out.
        augmentation: see :class:`MixingDataModule`; on the device, after the crop.
        num_workers: loader processes.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: for streams of another kind, shards without class names, and, when loaders are made and while
            reading, for what their streams and loaders refuse.

    Example:
        >>> from ida_lightning import WebDatasetStream
        >>> train = WebDatasetStream(["a.tar", "b.tar"], images=1000)
        >>> data = StreamingDataModule(train, class_names=["cat", "dog"], batch_size=100, num_workers=2)
        >>> data.setup("fit")
        >>> len(data.train_dataloader())
        10
    """

    channels = 3
    crop = 7 / 8

    def __init__(
        self,
        train: ImageStream,
        val: ImageStream | None = None,
        test: ImageStream | None = None,
        class_names: list[str] | None = None,
        crops: Crops = Crops(),
        allow_inexact_resume: bool = False,
        augmentation: Augmentation = Augmentation(flip=True),  # noqa: B008 (frozen)
        num_workers: int = 8,
        **kwargs: Any,
    ) -> None:
        self.streams = {"train": _stream("train", train)}
        for name, stream in (("val", val), ("test", test)):
            if stream is not None:
                self.streams[name] = _stream(name, stream)
        self.crops = is_a("crops", crops, Crops)
        self.image_size, self.mean, self.std = crops.image_size, tuple(crops.mean), tuple(crops.std)
        self.allow_inexact_resume = flag("allow_inexact_resume", allow_inexact_resume)
        names = train.class_names() if class_names is None else class_names
        if names is None:
            raise InputError("class_names: expected them, the training shards do not say what labels stand for")
        self.class_names = texts("class_names", names)
        super().__init__(augmentation=augmentation, num_workers=num_workers, **kwargs)
        self._stopped: Mapping[str, Any] | None = None

    def load(self) -> dict[str, StreamSplit]:  # type: ignore[override]
        """Return the streams; nothing is read yet."""
        crop = v2.RandomResizedCrop(self.image_size, scale=(self.crops.min_scale, 1.0), antialias=True)
        plain = middle_of(self.image_size, self.crop)
        return {
            name: StreamSplit(
                name,
                stream,
                ImageDecoding(
                    self.num_classes, 3, crop if name == "train" else plain, self.seed, name == "test", self.image_size
                ),
            )
            for name, stream in self.streams.items()
        }

    def train_dataloader(self) -> DataLoader[MixedBatch]:
        """Return a loader of this process's share, in a new order every epoch.

        A loop without a Trainer calls ``loader.set_epoch(epoch)`` for that.
        """
        return self._loader("train", shuffled=True)

    def _loader(self, split: str, shuffled: bool = False, **options: Any) -> DataLoader[MixedBatch]:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        share = StreamShare(self.seed, 0, shuffled, rank, ranks, max(1, self.num_workers), self.batch_size)
        loader = StreamLoader(self._split(split), share, self.num_workers, self._place if shuffled else None)  # type: ignore[arg-type]
        # Lightning reads ahead where there is no length, and that before it knows where a run goes on.
        if shuffled and loader.batches_per_worker is None and self.trainer is not None and self.trainer.ckpt_path:
            self._allow_inexact("train.images: expected their number where a run is gone on with, got None")
        return loader  # type: ignore[return-value]

    def _place(self) -> tuple[int, int] | None:
        """Return epoch and batches had of a fit, after a check that what was had is known; None outside of one."""
        if self.trainer is None or not self.trainer.training:
            return None
        epoch, had = self._position()
        if had and not self.streams["train"].resumes:
            self._allow_inexact(
                f"ckpt_path: expected the end of an epoch, as {type(self.streams['train']).__name__} cannot begin "
                f"inside of one, got one after {had} batches"
            )
        for name, now in self.state_dict().items() if had else ():
            before = None if self._stopped is None else self._stopped.get(name)
            if before != now:
                self._allow_inexact(
                    f"{name}: expected {before}, as this run had when it stopped inside of an epoch, got {now}"
                )
        return epoch, had

    def _allow_inexact(self, reason: str) -> None:
        if not self.allow_inexact_resume:
            raise InputError(f"{reason}; allow_inexact_resume: true goes on and may repeat images of the epoch")
        rank_zero_warn(f"{reason}; going on, images of the epoch may be repeated or left out")

    def state_dict(self) -> dict[str, Any]:
        """Return what decides which images the batches of an epoch hold; it is kept in checkpoints."""
        return {
            "train": self.streams["train"].fingerprint(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "devices": 1 if self.trainer is None else self.trainer.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a run that is gone on with had."""
        self._stopped = dict(state_dict)

    def pictures(self) -> dict[str, Any]:
        """Return all that decides about the pictures of a training batch, the number of workers among it."""
        return {**super().pictures(), "num_workers": self.num_workers, "min_scale": self.crops.min_scale}


def _stream(name: str, value: object) -> ImageStream:
    if not isinstance(value, ImageStream):
        raise InputError(f"{name}: expected an ImageStream such as WebDatasetStream, got {kind_of(value)}")
    return value
