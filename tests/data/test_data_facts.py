import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ida_lightning import InputError
from ida_lightning.data import DigitsDataModule, MixingDataModule
from ida_lightning.data_facts import DataFacts, DescribedData, facts_from, facts_of
from ida_lightning.models import ImageInput
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def test_a_mixing_data_module_says_everything(blobs):
    blobs.setup("fit")
    assert isinstance(blobs, DescribedData)
    assert isinstance(DigitsDataModule(), DescribedData)
    facts = facts_from(blobs)
    # None unless answers are stored, and of what is no text.
    assert None not in facts._replace(cycle=1, vocabulary=())
    assert facts.image_input == ImageInput((0.2,), (0.25,), 8)
    assert facts.class_names == BlobsDataModule.class_names
    assert facts.class_names is not BlobsDataModule.class_names, "a copy"
    raw = blobs.splits["val"].images[:2]
    torch.testing.assert_close(facts.denormalise(facts.normalise(raw)), raw / 255)


@pytest.mark.parametrize("data", [None, object(), L.LightningDataModule()])
def test_what_says_nothing_is_known_by_nothing(data):
    assert facts_from(data) == DataFacts()
    assert facts_from(data).image_input is None
    assert not isinstance(data, DescribedData)


def test_a_trainer_with_loaders_knows_nothing(tmp_path, blobs):
    run = trainer(tmp_path)
    assert facts_of(None) == facts_of(run) == DataFacts()
    loader = DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8) % 4), 4)
    run.fit(ClassificationModule(TinyNet(), 4, 1, 8), loader, loader)
    assert facts_of(run) == DataFacts()
    run.validate(ClassificationModule(TinyNet(), 4, 1, 8), blobs, verbose=False)
    assert facts_of(run).batch_size == 16


# --- what a data set must give


def without(*missing):
    kept = {name: vars(BlobsDataModule)[name] for name in ("class_names", "channels", "image_size", "mean", "std")}
    return type("Lacking", (MixingDataModule,), {n: v for n, v in kept.items() if n not in missing})


def test_a_data_set_that_lacks_attributes_cannot_be_made():
    lacking = type("Lacking", (without("mean", "class_names"),), {"load": lambda self: {}})
    with pytest.raises(InputError, match=r"Lacking: expected the attributes .*, got no class_names, mean$"):
        lacking()


def test_a_data_set_without_load_cannot_be_made():
    with pytest.raises(TypeError, match="abstract .*load"):
        without()()


def test_attributes_may_be_set_before_the_base():
    class Asked(BlobsDataModule):
        def __init__(self):
            self.mean = (0.5,)
            super().__init__()

        @property
        def class_names(self):
            raise AssertionError("this would read files")

    assert Asked().mean == (0.5,)
