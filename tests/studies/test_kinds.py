"""Audit and comparison of inputs that are no pictures."""

from pathlib import Path

import pytest
import torch
import yaml

from ida_lightning import DistillationModule, InnerMixingCallback, InputError, Mixing
from ida_lightning.__main__ import main
from ida_lightning.studies.audit import audit, audit_teacher
from tests.helpers.comparisons import TRAINER, rows_of
from tests.helpers.kinds import CLASSES, NETWORKS, KindsDataModule
from tests.helpers.trainers import trainer

KINDS = list(NETWORKS)


def audited(kind, tmp_path, *callbacks, data=None):
    torch.manual_seed(0)
    module = DistillationModule(NETWORKS[kind](), torch.nn.Identity(), CLASSES)
    data = data or KindsDataModule(kind, mixing=Mixing("mixup"))
    return audit(trainer(tmp_path, callbacks=list(callbacks)), module, data, out=str(tmp_path / "audit"))[0]


@pytest.mark.parametrize("kind", ["vectors", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[1:3])])
def test_an_audit_draws_the_numbers_of_what_is_no_picture(kind, tmp_path):
    report = audited(kind, tmp_path)
    ways = ["clean", "mixup", *(["cutmix", "both"] if kind == "spectrograms" else []), "validation"]
    assert report.mixings == ways
    assert report.examples.images.shape[1] == 1
    assert report.examples.images.amin() >= 0
    assert report.examples.images.amax() <= 1
    assert "data:image/png" in (tmp_path / "audit" / "audit.html").read_text()


class Worded(KindsDataModule):
    def describe(self, inputs):
        return [f"word {int(ids[0])}" for ids in inputs["ids"]]


@pytest.mark.draws
def test_an_audit_of_tokens_mixes_inside_and_shows_words(tmp_path):
    data = Worded("tokens", mixing=Mixing("mixup"))
    report = audited("tokens", tmp_path, InnerMixingCallback(["embedding", "body"]), data=data)
    assert report.mixings == ["clean", "mixup", "validation"]
    assert report.facts["not_measured"] == []
    assert all(" × word " in text for text in report.examples.images)
    assert data.inner_layers == ()
    assert report.value("mixup", "violated") != report.value("clean", "violated")


def test_an_audit_of_tokens_without_a_layer_is_one_line(tmp_path):
    with pytest.raises(InputError, match="InnerMixingCallback mixes what cannot be added up inside the network"):
        audited("tokens", tmp_path)
    with pytest.raises(InputError, match="mixing.kind: expected mixup or none for inputs without height and width"):
        audited("vectors", tmp_path, data=KindsDataModule("vectors", mixing=Mixing("cutmix")))


def test_a_loader_of_sequences_is_audited(tmp_path):
    loader = [(torch.randn(8, 5, 4), torch.arange(8) % CLASSES)]
    report, _ = audit_teacher(NETWORKS["sequences"](), loader, mixing=Mixing("mixup"), out=str(tmp_path))
    assert report.mixings == ["clean", "mixup"]


@pytest.mark.slow  # eight fits
@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_input_is_compared(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = NETWORKS[kind].__name__
    inner = {"class_path": "InnerMixingCallback", "init_args": {"layers": "embedding"}}
    network = {"class_path": f"tests.helpers.kinds.{name}"}
    data = {
        "class_path": "tests.helpers.kinds.KindsDataModule",
        "init_args": {"kind": kind, "mixing": {"kind": "mixup"}},
    }
    arguments = {"teacher": network, "student": network}
    fit = {
        "trainer": {**TRAINER, "max_epochs": 1, "callbacks": [inner] if kind == "tokens" else []},
        "model": {"class_path": "DistillationModule", "init_args": arguments},
        "data": data,
    }
    Path("fit.yaml").write_text(yaml.safe_dump(fit))
    methods = {"kd_aug": {}, "kd_i": {"trainer": {"callbacks+": [{"class_path": "IsotonicSoftLabelCallback"}]}}}
    comparison = {"fit": "fit.yaml", "seeds": [0], "methods": methods, "reference": "kd_aug", "output": "out"}
    Path("compare.yaml").write_text(yaml.safe_dump(comparison))
    main(["compare", "--config", "compare.yaml"])
    assert {row["method"] for row in rows_of("results")} == set(methods)
