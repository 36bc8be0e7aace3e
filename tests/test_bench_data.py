"""The data benchmark runs, and its three pipelines yield the same kind of thing."""

import csv

import pytest
import torch
from benchmarks import data as bench
from benchmarks import streaming

from tests.helpers.folder_files import write_folder


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_runs_and_writes_every_line(tmp_path):
    options = {"out": tmp_path, "batch": 8, "workers": 1, "images": 64, "batches": 2, "rounds": 2, "steps": 0}
    bench.main([f"--{name}={value}" for name, value in options.items()])
    with (tmp_path / "data_cpu.csv").open() as file:
        lines = {line["what"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["ours", "torchvision", "timm", "ours / torchvision", "ours / timm"]
    assert all(float(line["value"]) > 0 for line in lines.values())


@pytest.mark.slow
def test_streams_are_measured_beside_a_folder(tmp_path):
    root = write_folder(tmp_path / "images", parts={"train": 17, "val": 1})
    options = {"work": tmp_path / "shards", "out": tmp_path, "batch": 2, "size": 16, "batches": 1, "passes": 1}
    streaming.main([str(root / "train"), *(f"--{name}={value}" for name, value in options.items())])
    with (tmp_path / "streaming_cpu.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["source"] for line in lines] == 2 * ["folder", "litdata", "webdataset", "arrow"]
    assert [line["repeats"] for line in lines[-3:]] == 3 * ["0 of 48"]


def test_pipelines_yield_images_of_the_same_kind():
    cpu = torch.device("cpu")
    streams = [
        bench.ours(bench.Pictures(512), 256, cpu),
        bench.torchvision_pipeline(bench.Pictures(512), 256, 0, cpu),
        bench.timm_pipeline(bench.Pictures(512), 256, 0, cpu),
    ]
    for stream in streams:
        images = next(stream)
        assert images.shape == (256, 3, 32, 32)
        assert images.dtype == torch.float32
        # Uniform pixels, a tenth of them black padding, normalised.
        share = 1 - (1 - 20 / 9 / 32) ** 2
        grey = (1 - share) * 0.5 - torch.tensor(bench.MEAN)
        torch.testing.assert_close(images.mean((0, 2, 3)), grey / torch.tensor(bench.STD), atol=0.05, rtol=0)
