"""Augmentation of one's own for folders of images, from Python and from YAML."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ida_lightning import InputError, Mixing
from ida_lightning.cli import IDACLI
from ida_lightning.data import ImageFolderDataModule
from ida_lightning.modules import DistillationModule
from tests.helpers.folder_files import write_folder
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


class Invert:
    """A transform without torchvision."""

    def __init__(self, strength: int = 255):
        self.strength = strength

    def __call__(self, image):
        return Image.fromarray(self.strength - np.asarray(image))


def folder_data(root, **options):
    return ImageFolderDataModule(str(root), **{"image_size": 16, "batch_size": 6, "num_workers": 0, **options})


def images_of(data, split="train"):
    data.setup("fit")
    return data.splits[split].__getitems__(range(9)).inputs


def test_a_transform_changes_training_images_alone(tmp_path):
    root = write_folder(tmp_path)
    plain, inverted = folder_data(root), folder_data(root, transform=Invert())
    assert torch.equal(images_of(inverted), 255 - images_of(plain))
    assert torch.equal(images_of(inverted, "val"), images_of(plain, "val"))


@pytest.mark.parametrize(
    "transform",
    [
        v2.ToImage(),
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
        v2.PILToTensor(),
        np.asarray,
    ],
)
def test_other_kinds_of_pixels_are_converted(tmp_path, transform):
    root = write_folder(tmp_path)
    assert torch.equal(images_of(folder_data(root, transform=transform)), images_of(folder_data(root)))


def test_normalised_pixels_are_refused(tmp_path):
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,) * 3, (0.2,) * 3)]
    with pytest.raises(InputError, match=r"0.png: transform: expected uint8, .* from 0 to 1, .*; leave Normalize out"):
        images_of(folder_data(write_folder(tmp_path), transform=steps))


def test_a_transform_alone_makes_the_size(tmp_path):
    root = write_folder(tmp_path)
    data = folder_data(root, transform=v2.Resize((16, 16)), train_crop=False)
    assert images_of(data).shape == (9, 3, 16, 16)
    with pytest.raises(InputError, match="expected 16 x 16 pixels after the transform, got 30 x 40"):
        images_of(folder_data(root, train_crop=False))


def test_all_of_a_picture_may_be_asked_for(tmp_path):
    assert images_of(folder_data(write_folder(tmp_path), min_scale=1.0)).shape == (9, 3, 16, 16)


@pytest.mark.parametrize("transform", ["flip", [v2.RandomHorizontalFlip]])
def test_what_is_no_transform_is_refused(tmp_path, transform):
    with pytest.raises(InputError, match="transform: expected a function of an image, got"):
        folder_data(tmp_path, transform=transform)


def test_random_transforms_depend_on_the_key_alone(tmp_path):
    def noise(image):
        drawn = (random.random(), np.random.random(), float(torch.rand(())))  # noqa: NPY002
        return Image.new("RGB", image.size, tuple(int(256 * value) for value in drawn))

    data = folder_data(write_folder(tmp_path), transform=noise)
    data.setup("fit")
    split = data.splits["train"]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    batch = split.__getitems__([0, 1, 20, len(split)]).inputs[:, :, 0, 0]
    assert torch.equal(batch[1], split[1].inputs[0, :, 0, 0])
    assert len(batch.unique(dim=0)) == 4, "other rows, other epochs"
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[2], torch.get_rng_state())


def test_teacher_and_student_see_the_same_picture(tmp_path):
    class See(TinyNet):
        def __init__(self):
            super().__init__(3, 3)
            self.seen = []

        def forward(self, images):
            if len(images) == 6:
                self.seen.append(images.clone())
            return super().forward(images)

    teacher, student = See(), See()
    data = folder_data(
        write_folder(tmp_path), transform=[v2.ColorJitter(0.5), v2.RandomRotation(20)], mixing=Mixing("cutmix")
    )
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(DistillationModule(teacher, student, 3, 3, 16), data)
    assert len(student.seen) == 5
    assert all(map(torch.equal, teacher.seen, student.seen))


CONFIG = """
model: {class_path: ClassificationModule, init_args: {model: test_resnet}}
trainer: {accelerator: cpu, logger: false}
data:
  class_path: ImageFolderDataModule
  init_args:
    root: images
    image_size: 16
    num_workers: 0
    transform: TRANSFORM
"""


@pytest.mark.parametrize(
    ("transform", "kinds"),
    [
        (
            "{class_path: torchvision.transforms.v2.ColorJitter, init_args: {brightness: 0.4, hue: 0.1}}",
            ["ColorJitter"],
        ),
        (
            "[{class_path: torchvision.transforms.v2.TrivialAugmentWide}, "
            "{class_path: tests.data.test_transform.Invert, init_args: {strength: 255}}]",
            ["TrivialAugmentWide", "Invert"],
        ),
    ],
)
def test_transforms_come_from_yaml(tmp_path, transform, kinds):
    write_folder(tmp_path / "images")
    Path("fit.yaml").write_text(CONFIG.replace("TRANSFORM", transform))
    cli = IDACLI(["fit", "--config", "fit.yaml"])
    assert [type(step).__name__ for step in cli.datamodule.transforms] == kinds
    assert images_of(cli.datamodule).shape == (9, 3, 16, 16)
    Path("again.yaml").write_text(cli.subcommand_parser().dump(cli.arguments))
    assert len(IDACLI(["fit", "--config", "again.yaml"]).datamodule.transforms) == len(kinds)


def test_a_transform_that_is_not_there_is_one_line(tmp_path):
    write_folder(tmp_path / "images")
    Path("fit.yaml").write_text(CONFIG.replace("TRANSFORM", "{class_path: torchvision.transforms.v2.ColourJitter}"))
    with pytest.raises(InputError, match="ColourJitter"):
        IDACLI(["fit", "--config", "fit.yaml"])
