"""A student that reads texts as a folder of transformers: the same answers, with the folder's own tokenizer."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ida_lightning.__main__ import main
from ida_lightning.models import Vocabulary, build_model, describe
from tests.helpers.texts import TINY, TINY_BERT, made_pairs, write_texts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A config of texts and a weight file of its network."""
    monkeypatch.chdir(tmp_path)
    write_texts(Path("train.csv"), made_pairs(60))
    write_texts(Path("test.csv"), made_pairs(90)[60:])
    tokens = {"vocabulary": TINY.vocabulary, "max_length": TINY.max_length}
    config = {
        "trainer": {"accelerator": "cpu", "logger": False},
        "model": {
            "class_path": "ClassificationModule",
            "init_args": {"model": "transformers:bert", "model_args": TINY_BERT},
        },
        "data": {
            "class_path": "TextDataModule",
            "init_args": {"train": "train.csv", "test": "test.csv", "tokens": tokens},
        },
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    network = build_model("transformers:bert", 3, **TINY_BERT)
    save_file(network.state_dict(), "student.safetensors", describe(network, 3).metadata())
    return tmp_path


def export(*more):
    main(["export", "--checkpoint", "student.safetensors", "--to", "transformers", "--out", "out", *more])


def test_a_student_becomes_a_folder_that_transformers_loads(folder, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    export("--config", "fit.yaml")
    assert "agreement 100.00%" in capsys.readouterr().out
    assert {file.name for file in Path("out").iterdir()} == {
        *("config.json", "model.safetensors", "parity.json", "tokenizer.json", "tokenizer_config.json")
    }
    report = json.loads(Path("out/parity.json").read_text())
    assert report["parity"]["largest_difference"] < 1e-5
    assert report["parity"]["images"] == 30
    network, tokenizer = AutoModelForSequenceClassification.from_pretrained("out"), AutoTokenizer.from_pretrained("out")
    assert network.config.id2label == {0: "HUM:ind", 1: "LOC:city", 2: "NUM:date"}
    encoded = tokenizer(["Where IS that ?"], return_tensors="pt")
    assert encoded["input_ids"][0, 0] == tokenizer.cls_token_id
    assert network.eval()(**encoded).logits.shape == (1, 3)


def refused(capsys, *more):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        export(*more)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert not Path("out").exists() or not list(Path("out").iterdir())
    return line


def test_what_is_no_text_or_no_transformer_is_one_line(folder, capsys):
    assert "config: expected the config of the fit on texts" in refused(capsys)
    config = yaml.safe_load(Path("fit.yaml").read_text())
    config["model"]["init_args"] = {"model": "ida_lightning.models.TextCNN", "model_args": {"vocab_size": 300}}
    Path("cnn.yaml").write_text(yaml.safe_dump(config))
    network = build_model("ida_lightning.models.TextCNN", 3, vocab_size=300)
    save_file(network.state_dict(), "student.safetensors", describe(network, 3).metadata())
    assert "to: expected a network of transformers, got TextCNN" in refused(capsys, "--config", "cnn.yaml")


def test_weights_of_another_vocabulary_are_not_exported(folder, capsys):
    network = build_model("transformers:bert", 3, **TINY_BERT)
    description = describe(network, 3)._replace(vocabulary=Vocabulary.of({"other": 0}).fingerprint)
    save_file(network.state_dict(), "student.safetensors", description.metadata())
    line = refused(capsys, "--config", "fit.yaml")
    assert "checkpoint: expected weights that were trained with the data's tokenizer" in line
    line = refused(capsys, "--config", "fit.yaml", "--to", "onnx")
    assert "to: expected transformers for a network that reads texts, got onnx" in line
