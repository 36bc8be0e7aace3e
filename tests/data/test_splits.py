"""Which images validate and test: folders, lists, shares, and what the log says about them."""

import numpy as np
import pytest
import torch
from PIL import Image

from ida_lightning import InputError
from ida_lightning.data import FromDatasetsDataModule, ImageFolderDataModule
from ida_lightning.data.in_memory import carve
from ida_lightning.modules import ClassificationModule
from tests.helpers.folder_files import COLOURS, write_folder
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def folder_data(root, **options):
    return ImageFolderDataModule(str(root), **{"image_size": 16, "batch_size": 6, "num_workers": 0, **options})


@pytest.fixture
def log(monkeypatch):
    """Lines that are logged, whichever module logs them."""
    lines = []
    for module in ("base", "sets.image_folder", "image_files", "decoded"):
        monkeypatch.setattr(f"ida_lightning.data.{module}.rank_zero_info", lines.append, raising=False)
    return lines


def sizes(data):
    data.setup("fit")
    return {name: len(split) for name, split in data.splits.items()}


def files_of(split):
    return {split.name_of(row) for row in range(len(split))}


def test_a_val_folder_validates_and_tests_if_it_is_alone(tmp_path, log):
    data = folder_data(write_folder(tmp_path))
    assert sizes(data) == {"train": 30, "val": 9, "test": 9}
    assert files_of(data.splits["val"]) == files_of(data.splits["test"])
    (line,) = log
    assert line == (
        f"data: train 30 images ({tmp_path}/train, 3 classes); val 9 images ({tmp_path}/val); "
        f"test 9 images ({tmp_path}/val, the validation images: there is no other test folder)"
    )


def test_a_test_folder_is_found_too(tmp_path):
    write_folder(tmp_path, parts={"train": 10, "val": 3, "test": 2})
    data = folder_data(tmp_path)
    assert sizes(data) == {"train": 30, "val": 9, "test": 6}
    assert "/test/" in data.splits["test"].name_of(0)


def test_a_test_folder_without_classes_is_no_split(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "test" / "0.png")
    data = folder_data(tmp_path)
    assert sizes(data)["test"] == 9
    assert "/val/" in data.splits["test"].name_of(0)


def test_folders_are_chosen_by_name(tmp_path):
    write_folder(tmp_path, parts={"train": 10, "val": 3, "valid": 2, "held": 1})
    data = folder_data(tmp_path, val_folder="valid", test_folder="held")
    assert sizes(data) == {"train": 30, "val": 6, "test": 3}
    assert data.origins["val"].endswith("/valid")


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, {"train": 20, "val": 10}),
        (0.2, {"train": 24, "val": 6}),
        (0.0, {"train": 30}),
        (1.0, {"val": 30}),
    ],
)
def test_shares_of_the_training_images(tmp_path, share, expected):
    write_folder(tmp_path, parts={"train": 10})
    data = folder_data(tmp_path, val_share=share)
    assert sizes(data) == expected
    assert sum(len(files_of(split)) for split in data.splits.values()) == 30


def test_a_share_leaves_the_val_folder_to_test_on(tmp_path, log):
    data = folder_data(write_folder(tmp_path), val_share=0.2)
    assert sizes(data) == {"train": 24, "val": 6, "test": 9}
    assert not files_of(data.splits["train"]) & files_of(data.splits["val"])
    assert f"val 6 images (20.0% of {tmp_path}/train, stratified); test 9 images ({tmp_path}/val)" in log[0]


@pytest.mark.parametrize(
    ("images", "classes", "held"), [(600, 10, 60), (60, 10, 20), (200, 20, 66), (12, 4, 4), (200_000, 100, 10_000)]
)
def test_the_usual_share_has_a_floor_and_a_ceiling(images, classes, held):
    train, val = carve(torch.arange(images) % classes, None)
    assert len(val) == held
    assert np.array_equal(np.sort(np.concatenate((train, val))), np.arange(images))


def test_lists_of_paths_choose_the_images(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val.txt").write_text("train/cat/1.png\n\ndog/2.png\n")
    (tmp_path / "test.txt").write_text(f"{tmp_path}/train/eel/3.png\n")
    data = folder_data(
        tmp_path, val_files=str(tmp_path / "val.txt"), test_files=str(tmp_path / "test.txt"), batch_size=2
    )
    assert sizes(data) == {"train": 27, "val": 2, "test": 1}
    assert files_of(data.splits["val"]) == {f"{tmp_path}/train/cat/1.png", f"{tmp_path}/train/dog/2.png"}
    assert next(iter(data.test_dataloader())).label_mix.labels.tolist() == [[2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("cat/1.png\ncat/77.png", "val_files: expected paths of training images .*, got 'cat/77.png' in line 2"),
        ("\n", "val_files: expected paths in .*, got none"),
        (None, "val_files: expected a text file of paths at .*, it cannot be read"),
        ("eel/3.png", "test_files: expected other images than in val_files, got .*eel/3.png in both"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, lines, message):
    write_folder(tmp_path)
    if lines is not None:
        (tmp_path / "val.txt").write_text(lines)
    (tmp_path / "test.txt").write_text("eel/3.png")
    data = folder_data(tmp_path, val_files=str(tmp_path / "val.txt"), test_files=str(tmp_path / "test.txt"))
    with pytest.raises(InputError, match=message):
        data.setup("fit")


def test_two_answers_to_one_question_are_refused(tmp_path):
    with pytest.raises(InputError, match="val_folder: expected one of .*, got val_folder and val_share"):
        folder_data(tmp_path, val_folder="val", val_share=0.1)
    with pytest.raises(InputError, match="test_folder: expected one of .*, got test_folder and test_files"):
        folder_data(tmp_path, test_folder="val", test_files="t.txt")


def test_a_class_that_a_split_lacks_is_said(tmp_path, log):
    write_folder(tmp_path)
    for file in (tmp_path / "val" / "dog").iterdir():
        file.unlink()
    (tmp_path / "val" / "dog").rmdir()
    data = folder_data(tmp_path)
    assert sizes(data)["val"] == 6
    assert "data: val has no image of dog" in log
    labels = data.splits["val"].__getitems__(range(6)).label_mix.labels[:, 0]
    assert labels.tolist() == [0, 0, 0, 2, 2, 2], "numbers are those of the training classes"


def test_a_class_of_one_image_is_named(tmp_path):
    write_folder(tmp_path, parts={"train": 3})
    for number in (1, 2):
        (tmp_path / "train" / "dog" / f"{number}.png").unlink()
    with pytest.raises(InputError, match="val_share: expected two images a class or more to divide, got one of 'dog'"):
        folder_data(tmp_path).setup("fit")


def test_what_is_no_image_is_named_in_the_log(tmp_path, log):
    write_folder(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("")
    (tmp_path / "train" / "cat" / "a.xml").write_text("")
    (tmp_path / "train" / "cat" / "b.xml").write_text("")
    data = folder_data(tmp_path)
    assert data.class_names == list(COLOURS)
    assert sizes(data)["train"] == 30
    assert f"data: ignored in {tmp_path}/train: .ipynb_checkpoints, notes.txt, 2 x *.xml" in log


def test_a_link_that_leads_back_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "all").symlink_to("/")
    with pytest.raises(InputError, match=r"root: expected a folder of images, got .*cat/all, a link to a folder that"):
        folder_data(tmp_path).setup("fit")
    (tmp_path / "train" / "cat" / "all").unlink()
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    assert sizes(folder_data(tmp_path))["train"] == 31, "other links are followed"


def test_class_folders_in_the_root_itself(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(InputError, match=r"found none; for class folders in root itself: train_folder: \."):
        folder_data(tmp_path / "train").setup("fit")
    data = folder_data(tmp_path / "train", train_folder=".")
    assert sizes(data) == {"train": 20, "val": 10}
    assert data.class_names == list(COLOURS)


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")  # Lightning's own words
def test_a_fit_without_validation_images(tmp_path, log):
    data = folder_data(write_folder(tmp_path, parts={"train": 4}), val_share=0.0)
    trainer(tmp_path).fit(ClassificationModule(TinyNet(3, 3), 3, 3, 16), data)
    assert data.val_dataloader() == []
    assert log == [f"data: train 12 images ({tmp_path}/train, 3 classes); no val images; no test images"]


def test_nothing_to_train_with_is_said(tmp_path):
    data = folder_data(write_folder(tmp_path), val_share=1.0)
    module = ClassificationModule(TinyNet(3, 3), 3, 3, 16)
    trainer(tmp_path).validate(module, data, verbose=False)
    with pytest.raises(InputError, match="train: this data module was given no such split"):
        trainer(tmp_path).fit(module, data)


@pytest.mark.parametrize(("share", "names"), [(0.0, ["train"]), (1.0, ["val"]), (None, ["train", "val"])])
def test_shares_of_other_data_sets(share, names):
    pairs = [(torch.zeros(3, 6, 6, dtype=torch.uint8), row % 2) for row in range(12)]
    data = FromDatasetsDataModule(pairs, (0.5,) * 3, (0.25,) * 3, 6, val_share=share)
    assert sorted(sizes(data)) == names
