"""The shipped configs of texts through the real command line, on made questions."""

import json
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ida_lightning import ClassificationModule, InnerMixingCallback, TextCNN, TextDataModule, load_student
from ida_lightning.__main__ import main
from ida_lightning.data.tokens import make_tokenizer
from ida_lightning.models import build_model, read_description
from tests.helpers.command_line import CONFIGS, SHORT, fit, metrics_of
from tests.helpers.texts import TINY, TINY_BERT, made_pairs, write_texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
]
FEW = ["--data.batch_size=8", "--trainer.accelerator=cpu"]


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """Made questions where the configs look for those of TREC."""
    monkeypatch.chdir(tmp_path)
    Path("data/trec").mkdir(parents=True)
    write_texts(Path("data/trec/train.txt"), made_pairs(60))
    write_texts(Path("data/trec/test.txt"), made_pairs(72)[60:])


def small(*roles):
    args = json.dumps({"vocab_size": 300, "width": 4, "filters": 4})
    return ["--data.tokens.vocabulary=300", *(f"--model.{role}={args}" for role in roles)]


@pytest.mark.parametrize("task", ["trec6", "trec50"])
def test_teacher_and_student_of_trec_train(task, questions):
    fit(f"text/{task}_teacher", *FEW, *small("model_args"))
    described = read_description(f"outputs/text/{task}_teacher.safetensors")
    assert described.class_names == (["HUM", "LOC", "NUM"] if task == "trec6" else ["HUM:ind", "LOC:city", "NUM:date"])
    assert described.network == "ida_lightning.models.TextCNN"
    assert re.fullmatch("[0-9a-f]{64}", described.vocabulary)
    fit(f"text/{task}_student", *FEW, *small("teacher_args", "student.args"))
    logged = metrics_of(1)
    assert {"student/val_acc", "teacher/val_acc", "train/violation_rate"} <= logged.keys()
    student = load_student(f"outputs/text/{task}_student.safetensors")
    ids = torch.tensor([[2, 9, 3]])
    assert student(ids, torch.ones_like(ids)).shape == (1, 3)


def test_bert_teaches_distilbert_by_name(questions):
    tokenizer = make_tokenizer(TINY, [text for text, _ in made_pairs(60)])
    other = {"vocab_size": 300, "dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}
    tiny = {
        "google-bert/bert-base-uncased": ("bert", TINY_BERT),
        "distilbert/distilbert-base-uncased": ("distilbert", other),
    }
    for name, (kind, args) in tiny.items():  # a folder of this name is taken as the name would be
        build_model(f"transformers:{kind}", 3, **args).base_model.save_pretrained(name)
        tokenizer.save(Path(name))
    same = ["--data.tokens.max_length=24", "--trainer.precision=32-true"]
    fit("text/bert_teacher", *FEW, *same)
    fit("text/distilbert", *FEW, *same)
    assert set(metrics_of(1)["train/violation_rate_corrected"]) == {0}
    assert read_description("outputs/text/distilbert.safetensors").network_args == {}


def test_a_resumed_fit_ends_as_the_whole_one(tmp_path):
    def fit_texts(folder, checkpoint=None):
        torch.manual_seed(0)
        module = ClassificationModule(TextCNN(3, 300, width=4, filters=4, dropout=0), num_classes=3)
        data = TextDataModule(made_pairs(60), tokens=TINY, batch_size=8, seed=3)
        kept = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", callbacks=[InnerMixingCallback("embedding"), kept], **quiet
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        return trainer.global_step, module.state_dict()

    steps, whole = fit_texts("whole")
    resumed_steps, resumed = fit_texts("resumed", tmp_path / "whole" / "step=3.ckpt")
    assert resumed_steps == steps == 10
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_an_audit_shows_texts(questions):
    fit("text/trec6_teacher", *FEW, *small("model_args"))
    config = str(CONFIGS / "text" / "trec6_student.yaml")
    main(["audit", "--config", config, *FEW, *small("teacher_args"), "--batches=2", "--out=audit"])
    page = Path("audit/audit.html").read_text()
    (shown,) = re.findall(r'<figure><img alt="([^"]*)', page)[:1]
    assert re.search(r"moved: (0\.\d\d × wh[a-z]+ .* \d+ \? \+ )?\d\.\d\d × wh[a-z]+ .* \d+ \?", shown)


def test_another_vocabulary_is_refused_before_the_first_step(questions, capsys):
    def refused(*more):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(CONFIGS / "text" / "trec6_student.yaml"), *SHORT, *FEW, *more])
        return capsys.readouterr().err.splitlines()[-1]

    fit("text/trec6_teacher", *FEW, *small("model_args"))
    networks = small("teacher_args", "student.args")
    assert "student: expected a network for the 365 tokens" in refused(*networks, "--data.tokens.vocabulary=400")
    line = refused(*networks, "--data.tokens.vocabulary=290")
    assert "teacher: expected weights that were trained with the data's tokenizer" in line
