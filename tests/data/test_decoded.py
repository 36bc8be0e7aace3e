"""Images read one by one: folders, and data sets of other people's making."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from ida_lightning import InputError, Mixing
from ida_lightning.data import FromDatasetsDataModule, ImageFolderDataModule
from ida_lightning.data.decoded import DecodedImages
from ida_lightning.data.in_memory import InMemoryImages
from tests.helpers.data import Keep
from tests.helpers.folder_files import COLOURS, write_folder
from tests.helpers.trainers import trainer


def folder_data(root, **options):
    defaults = {"image_size": 16, "batch_size": 6, "num_workers": 0, "val_share": 0.2}
    return ImageFolderDataModule(root, **{**defaults, **options})


def test_image_folder_has_three_disjoint_splits(tmp_path):
    data = folder_data(write_folder(tmp_path))
    assert data.class_names == ["cat", "dog", "eel"]
    assert data.num_classes == 3
    data.setup("fit")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 24, "val": 6, "test": 9}
    assert not set(data.splits["train"].rows) & set(data.splits["val"].rows)
    for name in ("train", "val", "test"):
        split = data.splits[name]
        batch = split.__getitems__(range(len(split)))
        assert batch.inputs.shape == (len(split), 3, 16, 16)
        labels = batch.label_mix.labels[:, 0]
        assert labels.bincount().tolist() == [len(split) // 3] * 3
        expected = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[labels]
        assert torch.equal(batch.inputs[:, :, 8, 8], expected)


def test_image_folder_trains_with_worker_processes(tmp_path):
    data = folder_data(write_folder(tmp_path), num_workers=1, mixing=Mixing("cutmix"))
    module = Keep(channels=3)
    trainer(tmp_path).fit(module, data)
    batch = module.batches["train"][0]
    assert batch.inputs.shape == (6, 3, 16, 16)
    assert batch.label_mix.labels.shape == (6, 2)


def test_test_transform_keeps_the_middle_seven_eighths(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 4:60] = 255
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    data = folder_data(tmp_path, image_size=56)
    data.setup("fit")
    image = data.splits["test"][0].inputs[0]
    assert (image == 255).all(), "64 pixels stay 64, and 4 on each side are cropped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": -0.1}, "val_share: expected a number from 0 to 1, got -0.1"),
        ({"min_scale": 1.5}, "min_scale: expected a number above 0 and up to 1, got 1.5"),
        ({"image_size": 0}, "image_size: expected at least 1, got 0"),
    ],
)
def test_values_out_of_range(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        folder_data(tmp_path, **options)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"root: expected a folder of class folders at .*nowhere/train, found none"):
        _ = folder_data(tmp_path / "nowhere").class_names
    write_folder(tmp_path)
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(InputError, match=r"root: expected images .* in every class folder, found none in .*train/fox"):
        folder_data(tmp_path).setup("fit")
    (tmp_path / "train" / "fox").rename(tmp_path / "val" / "fox")
    with pytest.raises(InputError, match="test_folder: expected the classes cat, dog, eel, got a class folder 'fox'"):
        folder_data(tmp_path).setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_among_many_is_named_in_one_line(tmp_path, workers):
    root = write_folder(tmp_path)
    damaged = root / "val" / "dog" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    data = folder_data(root, num_workers=workers)
    data.setup("test")
    with pytest.raises(InputError) as caught:
        list(data.test_dataloader())
    assert str(caught.value).startswith(f"{damaged}: not readable as an image (")
    assert "\n" not in str(caught.value)


class Mappings:
    """What a Hugging Face data set looks like."""

    column_names = ("img", "fine_label")

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if key == "fine_label":
            return [row % 2 for row in range(len(self))]
        return {"img": self.images[key], "fine_label": key % 2}


PIXELS = np.random.default_rng(0).integers(0, 255, (12, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "source",
    [
        [(Image.fromarray(image), row % 2) for row, image in enumerate(PIXELS)],
        [(image, np.int64(row % 2)) for row, image in enumerate(PIXELS)],
        TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.arange(12) % 2),
        Mappings([Image.fromarray(image) for image in PIXELS]),
        Mappings(list(PIXELS)),
    ],
    ids=["pil", "array", "tensors", "hugging face", "hugging face arrays"],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_all_kinds_of_data_sets_give_the_same_images(source, in_memory):
    data = FromDatasetsDataModule(
        source, (0.5,) * 3, (0.25,) * 3, 6, test=source, val_share=0.3, in_memory=in_memory, batch_size=12
    )
    data.setup("fit")
    assert data.class_names == ["0", "1"]
    assert isinstance(data.splits["test"], InMemoryImages if in_memory else DecodedImages)
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch.inputs, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert batch.label_mix.labels[:, 0].tolist() == [row % 2 for row in range(12)]
    assert (len(data.splits["train"]), len(data.splits["val"])) == (8, 4)


def test_names_come_from_the_data_set_where_it_has_them():
    pairs = Mappings(list(PIXELS))
    pairs.features = {"fine_label": type("ClassLabel", (), {"names": ["ant", "bee"]})()}
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 6}
    assert FromDatasetsDataModule(pairs, label_key="fine_label", **options).class_names == ["ant", "bee"]
    assert FromDatasetsDataModule(pairs, class_names=["x", "y"], **options).class_names == ["x", "y"]
    pairs.classes = ["cod", "eel"]
    assert FromDatasetsDataModule(pairs, **options).class_names == ["cod", "eel"]


def pairs_with(image=None, label=0):
    pairs = [(pixels, row % 2) for row, pixels in enumerate(PIXELS)]
    pairs[5] = (PIXELS[5] if image is None else image, label)
    return pairs


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (pairs_with(label=7), r"item 5: expected a label 0 \.\.\. 1, got 7"),
        (pairs_with(label=-1), r"item 5: expected a label 0 \.\.\. 1, got -1"),
        (pairs_with(PIXELS[5][..., 0]), "item 5: expected 3 channels, got 1"),
        (pairs_with(Image.new("L", (6, 6))), "item 5: expected 3 channels, got 1"),
        (
            pairs_with(np.zeros((6, 7, 3), np.uint8)),
            r"item 5: expected an image of \(3, 6, 6\) like the others of its batch, got \(3, 6, 7\); give a transform",
        ),
        (pairs_with(torch.rand(3, 6, 6)), r"item 5: expected a uint8 image .*, got float32 \(3, 6, 6\); leave"),
        (pairs_with("cat.png"), "item 5: expected a PIL image, an array or a tensor, got str"),
    ],
)
def test_items_that_cannot_be_used_are_named(pairs, message, in_memory):
    data = FromDatasetsDataModule(
        pairs_with(),
        (0.5,) * 3,
        (0.25,) * 3,
        6,
        test=pairs,
        in_memory=in_memory,
        batch_size=12,
        class_names=["a", "b"],
        val_share=0.2,
    )
    with pytest.raises(InputError, match=message):
        read_all(data)


def read_all(data):
    data.setup("test")
    return list(data.test_dataloader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "mean: expected 3 numbers, one a channel, got 1"),
        ({"val_share": 1.5}, "val_share: expected a number from 0 to 1, got 1.5"),
        ({"val": []}, "val: expected a data set with items, got an empty one"),
        ({"in_memory": True, "train_transform": Image.Image.copy}, "train_transform: expected none with in_memory"),
        ({"train": [1, 2, 3]}, "expected .image, label. or a mapping with both, got int"),
        ({"train": [{"picture": 1, "label": 0}] * 4}, "item 0: expected a key for the image, one of image, img"),
    ],
)
def test_arguments_that_cannot_be_used(options, message):
    defaults = {"train": pairs_with(), "mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 6}
    with pytest.raises(InputError, match=message):
        FromDatasetsDataModule(**{**defaults, **options}).setup("fit")


def test_no_test_split_is_said_so():
    data = FromDatasetsDataModule(pairs_with(), (0.5,) * 3, (0.25,) * 3, 6, val_share=0.2)
    data.setup("test")
    with pytest.raises(InputError, match="test: this data module was given no such split"):
        data.test_dataloader()


def test_a_split_needs_two_images_of_every_class():
    pairs = [(PIXELS[0], label) for label in (0, 0, 0, 1)]
    with pytest.raises(InputError, match="labels: expected two images a class or more, got one of class 1"):
        FromDatasetsDataModule(pairs, (0.5,) * 3, (0.25,) * 3, 6, val_share=0.4).setup("fit")
