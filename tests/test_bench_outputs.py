"""The figures of stored answers come from real logits, and from sizes of real records."""

import pytest
import yaml
from benchmarks import outputs

from tests.helpers.problems import logits_and_mix


def test_exact_is_free_of_loss_and_fewer_classes_lose_more():
    lines = outputs.lines_of(4.5, [logits_and_mix(32, 100, seed=seed) for seed in range(4)])
    table = {cells[1]: cells[2:] for cells in ([cell.strip() for cell in line.split("|")] for line in lines[2:9])}
    assert list(table) == list(outputs.ENCODINGS)
    assert table["exact"][:3] == ["400", "0", "100.0%"]
    losses = {name: float(cells[1]) for name, cells in table.items()}
    assert losses["exact"] < losses["half"] < losses["top 64"] < losses["top 16"] < losses["top 8, half"]
    shares = [float(table[name][3].rstrip("%")) for name in ("top 64", "top 16", "top 8, half")]
    assert shares == sorted(shares)
    assert "128 mixed images, 100 classes, T = 4.5" in lines[-1]


def test_sizes_of_whole_runs():
    text = "\n".join(outputs.sizes())
    assert f"{50_000 * 200 * (4 * 100 + 8) / 1e9:,.0f} GB" in text
    assert f"{1_281_167 * 300 * (4 * 1000 + 8) / 1e9:,.0f} GB" in text


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_teacher_and_pictures_of_a_fit_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}
    teacher = {"class_path": "tests.helpers.networks.TinyNet"}
    model = {"class_path": "DistillationModule", "init_args": {"teacher": teacher, "student": "test_resnet"}}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    outputs.main(["--config", "fit.yaml", "--batches", "2"])
    printed = capsys.readouterr().out
    assert "| exact | 16 | 0 | 100.0% | none |" in printed
    assert "32 mixed images, 4 classes, T = 4.5" in printed
    with pytest.raises(SystemExit):
        outputs.main([])
