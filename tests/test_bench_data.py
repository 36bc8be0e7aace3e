"""The data benchmark runs, and its three pipelines yield the same kind of thing."""

import csv

import pytest
import torch
from benchmarks import data as bench


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_runs_and_writes_every_line(tmp_path):
    options = {"out": tmp_path, "batch": 8, "workers": 1, "images": 64, "batches": 2, "rounds": 2, "steps": 0}
    bench.main([f"--{name}={value}" for name, value in options.items()])
    with (tmp_path / "data_cpu.csv").open() as file:
        lines = {line["what"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["ours", "torchvision", "timm", "ours / torchvision", "ours / timm"]
    assert all(float(line["value"]) > 0 for line in lines.values())


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
