"""Every public function of the numerics meets hundreds of wrong inputs and names each of them, whatever it is."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ida_lightning
from ida_lightning import InputError, LabelMix, Mixing
from ida_lightning.augment import Augmentation
from ida_lightning.files import replacing
from ida_lightning.isotonic import isotonic_vjp
from ida_lightning.label_mix import LabelOrder
from ida_lightning.metrics import prediction_entropy
from ida_lightning.mixing import InnerPlan, MixedBatch, MixPlan, PlainImages, draw_cutmix, draw_mixup
from ida_lightning.models import build_model, eval_mode, fingerprint, load_weights, pretrained_input, put_weights
from ida_lightning.models.weights import Weights
from ida_lightning.plots import plot_corrections
from ida_lightning.supervision import Supervision
from ida_lightning.truth import project_onto_simplex

BATCH, CLASSES = 3, 5
ROOMS = ("adapters", "errors", "isotonic", "label_mix", "losses", "metrics", "mixing", "picking", "revision_selection")
ROOMS += ("supervision", "truth", "blending")
# Plain tuples of tensors that collating and transfer build; whoever takes them checks them. And the error itself.
UNCHECKED = {
    ida_lightning.KernelTrial,
    LabelMix,
    LabelOrder,
    MixedBatch,
    MixPlan,
    InnerPlan,
    PlainImages,
    Supervision,
    ida_lightning.OrderStatistics,
    InputError,
}
UNCHECKED |= {ida_lightning.DistillationLoss}  # a base

nan, inf = float("nan"), float("inf")
WORDS: list[Any] = ["text", b"bytes", object(), {}, [], [[0.5]], 1j, {"a"}, print]
NOT_TENSORS: list[Any] = [None, *WORDS, 3, 0.5, True, np.zeros((BATCH, CLASSES))]
NOT_NUMBERS: list[Any] = [None, *WORDS, True, torch.tensor(2.0), nan, inf, -inf, "2", 10**400]
NOT_INTS: list[Any] = [None, *WORDS, True, torch.tensor(2), nan, inf, 1.5, "3", -1]
NOT_FLAGS: list[Any] = [None, *WORDS, 1, 0.0, "no", "true"]
NOT_CHOICES: list[Any] = [None, *WORDS, "", 0, True, "AUTO"]


def probs(rows=BATCH, classes=CLASSES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, classes, generator=generator, dtype=torch.float64).softmax(1).to(dtype)


def changed(rows, value):
    """The same rows with one entry changed."""
    rows = rows.clone()
    rows.view(-1)[0] = value
    return rows


PROBS, LOGITS = probs(), probs().log()
LABELS = torch.tensor([0, 3, 4])
MIX = LabelMix.pair(LABELS, torch.tensor([1, 2, 4]), torch.tensor([0.7, 0.4, 0.5]))
IMAGES = torch.rand(BATCH, 3, 8, 8)
RNG = np.random.default_rng(0)
PLAN = draw_cutmix(BATCH, (8, 8), np.random.default_rng(0))
NETWORK = nn.Linear(2, 3)
ONES = torch.ones(BATCH)
SUPERVISION = Supervision(IMAGES, MIX, torch.arange(BATCH), LOGITS, PROBS, ONES, ONES, 2.0, torch.arange(BATCH) > 0)

CLEAN = MixedBatch(IMAGES, LabelMix.unmixed(LABELS), torch.arange(BATCH), torch.arange(BATCH)[:, None])
PLAIN = PlainImages(CLEAN, torch.arange(BATCH)[:, None], torch.ones(BATCH, 1))

# Tensors of the wrong kind for an argument that must be floating point (batch, classes).
NOT_MATRICES: list[Any] = [
    *NOT_TENSORS,
    PROBS.long(),
    PROBS > 0.5,
    PROBS.to(torch.complex64),
    PROBS[0],
    PROBS[None],
    torch.tensor(1.0),
    torch.zeros(BATCH, 0),
]
# Right by itself, but of another batch, number of classes or device than what it stands beside; those broadcast.
NOT_BESIDE: list[Any] = [PROBS[:1], PROBS[:2], PROBS[:0], PROBS[:, :1], probs(BATCH, CLASSES + 1), PROBS.to("meta")]
NOT_PROBABILITIES: list[Any] = [
    LOGITS,
    2 * PROBS,
    -PROBS,
    PROBS[:, :3].new_ones(BATCH, CLASSES),
    *(changed(PROBS, value) for value in (nan, inf, -inf, -0.1)),
]
NOT_LABELS: list[Any] = [
    *NOT_TENSORS,
    LABELS.float(),
    LABELS.int(),
    LABELS > 0,
    LABELS[:, None],
    torch.tensor(1),
    LABELS[:2],
    LABELS[:0],
    LABELS.to("meta"),
]
OUT_OF_RANGE: list[Any] = [changed(LABELS, value) for value in (-1, -100, CLASSES, 2**40)]
NOT_MIXES: list[Any] = [
    *NOT_TENSORS,
    (MIX.labels, MIX.weights),
    LabelMix(None, None),
    LabelMix(MIX.labels.tolist(), MIX.weights.tolist()),
    LabelMix(MIX.labels.float(), MIX.weights),
    LabelMix(MIX.labels.int(), MIX.weights),
    LabelMix(MIX.labels[0], MIX.weights[0]),
    LabelMix(MIX.labels[:, :0], MIX.weights[:, :0]),
    LabelMix(MIX.labels, MIX.weights.long()),
    LabelMix(MIX.labels, MIX.weights[:, :1]),
    LabelMix(MIX.labels, MIX.weights.to("meta")),
    LabelMix(*(part.to("meta") for part in MIX)),
    MIX.select(torch.tensor([0, 1])),
    MIX.select(torch.tensor([0])),
]
OTHER_LABELS: list[Any] = [LabelMix(changed(MIX.labels, value), MIX.weights) for value in (-1, CLASSES, 2**40)]
NOT_WEIGHTS: list[Any] = [LabelMix(MIX.labels, changed(MIX.weights, value)) for value in (nan, inf, -0.5, 5.0)]
NOT_ROWS: list[Any] = [
    *NOT_TENSORS,
    torch.tensor([0.0]),
    torch.tensor([3]),
    torch.tensor([-4]),
    LABELS[:2] > 0,
    MIX.labels,
]
NOT_IMAGES: list[Any] = [
    *NOT_TENSORS,
    (255 * IMAGES).to(torch.uint8),
    IMAGES[0],
    IMAGES[:2],
    IMAGES[..., 0],
    IMAGES[:0],
]
NOT_PLANS: list[Any] = [
    *NOT_TENSORS,
    tuple(PLAN),
    PLAN._replace(partner=PLAN.partner.float()),
    PLAN._replace(partner=PLAN.partner + BATCH),
    PLAN._replace(partner=PLAN.partner - BATCH),
    PLAN._replace(weight=PLAN.weight[:, :1]),
    PLAN._replace(weight=PLAN.weight.long()),
    PLAN._replace(box=PLAN.box[..., :2]),
    PLAN._replace(box=PLAN.box.float()),
    PLAN._replace(opacity=PLAN.opacity[:1]),
    PLAN._replace(opacity=None),
    MixPlan(*(part.to("meta") for part in PLAN)),
]


@dataclass
class Entry:
    """A call that works, and for each of its arguments the values that it must refuse by name."""

    call: Any
    right: dict[str, Any]
    wrong: dict[str, list[Any]] = field(default_factory=dict)


TEMPERATURE = [*NOT_NUMBERS, 0, -1.0]
SIZES = [None, *WORDS, 8, (8,), (8, 8, 8), (0, 8), (8, -1), (8, 1.5), ("8", 8), torch.tensor([8, 8])]
RNGS = [None, *WORDS, 0, np.random, torch.Generator()]
DRAW = {"rng": RNGS, "alpha": TEMPERATURE, "per_sample": NOT_FLAGS, "distinct": NOT_FLAGS, "batch": NOT_INTS}
NOT_SUPERVISIONS = [*NOT_TENSORS, tuple(SUPERVISION), SUPERVISION._replace(mixed=None)]
NOT_NETWORKS = [*NOT_TENSORS, "resnet18", nn.Linear]
BROKEN = {"values": [*NOT_MATRICES, PROBS[:2], changed(PROBS, nan)], "label_mix": [*NOT_MIXES, *OTHER_LABELS]}
SOLVING = {"values": [*BROKEN["values"], changed(PROBS, inf)], "label_mix": [*BROKEN["label_mix"], *NOT_WEIGHTS]}
OPTIONS = {"solver": NOT_CHOICES, "validate": [*WORDS, 0.5, "no"]}
LOSS_OPTIONS = {
    **{name: [*NOT_NUMBERS, -1] for name in ("alpha", "beta", "gamma", "relations")},
    "softness": TEMPERATURE,
    "whole": NOT_FLAGS,
    "form": NOT_CHOICES,
    "label_mix": BROKEN["label_mix"],
    "weights": [*NOT_TENSORS[1:], PROBS, PROBS[:2, 0], LABELS],
    "factors": [None, *WORDS, (), (0.0,), (-1.0,), ("a",), (nan,)],
    "loss": [*WORDS, 3, "KL"],
}
TRUTH = {"soft_labels": [*NOT_MATRICES, PROBS[:2]], "label_mix": BROKEN["label_mix"]}
ENTRIES = [
    Entry(LabelMix.unmixed, {"labels": LABELS}, {"labels": NOT_LABELS[:-3]}),
    Entry(
        LabelMix.pair,
        {"labels": LABELS, "partner_labels": LABELS, "weight": 0.7},
        {
            "labels": NOT_LABELS[:-3],
            "partner_labels": NOT_LABELS,
            "weight": [None, *WORDS, nan, inf, -0.1, 1.1, torch.rand(2), torch.rand(3, 1), changed(torch.rand(3), 1.5)],
        },
    ),
    Entry(
        LabelMix.from_dense,
        {"hard": PROBS, "k": 3, "smoothing": 0.1},
        {
            "hard": [*NOT_MATRICES, *NOT_PROBABILITIES],
            "k": [*WORDS, 0, -1, 1.5, CLASSES + 1, True, nan, torch.tensor(2)],
            "smoothing": [*WORDS, -0.1, 1.0, nan, inf, True, torch.tensor(0.1)],
        },
    ),
    Entry(
        LabelMix.from_taxonomy,
        {"labels": LABELS, "superclass": torch.tensor([0, 1, 0, 0, 1])},
        {"labels": [*NOT_LABELS[:-3], *OUT_OF_RANGE], "superclass": [*NOT_LABELS[:-4], LABELS[:0], LABELS.to("meta")]},
    ),
    Entry(lambda label_mix: label_mix.order(), {"label_mix": MIX}, {"label_mix": NOT_MIXES[-12:-5]}),
    Entry(lambda label_mix: label_mix.canonical(), {"label_mix": MIX}, {"label_mix": NOT_MIXES[-12:-5]}),
    Entry(
        lambda label_mix, num_classes: label_mix.dense(num_classes),
        {"label_mix": MIX, "num_classes": CLASSES},
        {"label_mix": [*NOT_MIXES[-12:-5], *OTHER_LABELS], "num_classes": [*NOT_INTS, 0]},
    ),
    Entry(MIX.select, {"rows": torch.tensor([0, 2])}, {"rows": NOT_ROWS}),
    Entry(
        lambda label_mix, num_classes: label_mix.check_values(num_classes),
        {"label_mix": MIX, "num_classes": CLASSES},
        {"label_mix": [*NOT_MIXES[-12:-5], *OTHER_LABELS, *NOT_WEIGHTS]},
    ),
    Entry(
        ida_lightning.as_mixed_batch,
        {"batch": (IMAGES, LABELS), "num_classes": CLASSES, "smoothing": 0.1},
        {
            "batch": [
                *NOT_TENSORS,
                *((IMAGES, labels) for labels in (*NOT_LABELS, *OUT_OF_RANGE)),
                *((IMAGES, rows) for rows in (*NOT_PROBABILITIES, *NOT_BESIDE)),
                *((images, LABELS) for images in (None, "text", IMAGES[:2], {"ids": IMAGES, "mask": IMAGES[:2]})),
                {"image": IMAGES},
                {"pictures": [IMAGES], "label": LABELS},
            ],
            "num_classes": [*WORDS, 0, -1, 2.5, True],
        },
    ),
    Entry(
        ida_lightning.isotonic_soft_labels,
        {"values": PROBS, "label_mix": MIX, "solver": "auto", "validate": None},
        {**SOLVING, **OPTIONS},
    ),
    Entry(ida_lightning.kernel_trials, {}, {}),
    Entry(
        ida_lightning.isotonic_softmax,
        {"logits": LOGITS, "label_mix": MIX, "temperature": 2.0, "solver": "auto", "validate": None},
        {
            "logits": SOLVING["values"],
            "label_mix": SOLVING["label_mix"],
            "temperature": TEMPERATURE,
            **OPTIONS,
        },
    ),
    Entry(
        ida_lightning.correct_soft_labels,
        {"soft_labels": PROBS, "label_mix": MIX, "temperature": 2.0, "space": "logits", "solver": "auto"},
        {
            "soft_labels": [*NOT_MATRICES, *NOT_PROBABILITIES, PROBS[:2]],
            "label_mix": SOLVING["label_mix"],
            "temperature": TEMPERATURE,
            "space": NOT_CHOICES,
            "solver": NOT_CHOICES,
        },
    ),
    Entry(
        ida_lightning.isotonic_regression_tree,
        {"values": PROBS[0], "parent": torch.tensor([-1, 0, 0, 1, 1]), "weights": PROBS[1]},
        {
            "values": [*NOT_TENSORS, PROBS, LABELS, changed(PROBS[0], nan), changed(PROBS[0], inf)],
            "parent": [*NOT_TENSORS, LABELS, PROBS[0], torch.tensor([1, 0, 0, 0, 9]), torch.tensor([1, 0, 0, 0, 0])],
            "weights": [*NOT_TENSORS[1:], PROBS, PROBS[0].long(), *(changed(PROBS[0], w) for w in (nan, inf, 0, -1))],
        },
    ),
    Entry(
        isotonic_vjp,
        {"grad": PROBS, "values": PROBS, "corrected": PROBS, "label_mix": MIX},
        {
            "grad": [*NOT_MATRICES, *NOT_BESIDE],
            "values": NOT_MATRICES,
            "corrected": [*NOT_MATRICES, *NOT_BESIDE],
            "label_mix": NOT_MIXES,
        },
    ),
    Entry(
        ida_lightning.blend_answers,
        {"logits": [LOGITS, LOGITS], "weights": [2.0, 1.0], "temperature": 2.0, "average": "logits"},
        {
            "logits": [None, LOGITS, [], "text", *([wrong, LOGITS] for wrong in NOT_MATRICES)],
            "weights": [*WORDS[:-2], [1.0], [1.0, -1.0], [0.0, 0.0], [1.0, nan], torch.ones(2, 2), torch.ones(3)],
            "temperature": TEMPERATURE,
            "average": NOT_CHOICES,
        },
    ),
    Entry(
        ida_lightning.trust_by_order,
        {"logits": [LOGITS], "label_mix": MIX, "temperature": 2.0},
        {
            "logits": [None, LOGITS, [], "text", *([wrong] for wrong in NOT_MATRICES)],
            "label_mix": SOLVING["label_mix"],
            "temperature": TEMPERATURE,
        },
    ),
    Entry(
        ida_lightning.in_order,
        {"logits": LOGITS, "label_mix": MIX, "temperature": 2.0},
        {"logits": NOT_MATRICES, "label_mix": SOLVING["label_mix"], "temperature": TEMPERATURE},
    ),
    Entry(
        ida_lightning.blend_plain,
        {"logits": LOGITS, "plain": PLAIN, "temperature": 2.0, "average": "logits"},
        {
            "logits": [*NOT_MATRICES, LOGITS[:2]],
            "plain": [*NOT_TENSORS, tuple(PLAIN), CLEAN],
            "temperature": TEMPERATURE,
            "average": NOT_CHOICES,
        },
    ),
    Entry(
        ida_lightning.with_plain,
        {"batch": CLEAN, "clean": CLEAN, "plans": [PLAN]},
        {
            "batch": [*NOT_TENSORS, CLEAN._replace(inputs=IMAGES[:2])],
            "clean": [*NOT_TENSORS, (IMAGES, LABELS)],
            "plans": [None, PLAN, [None], "text"],
        },
    ),
    Entry(
        ida_lightning.distillation_loss,
        {"student_logits": LOGITS, "soft_labels": PROBS, "temperature": 2.0},
        {
            "student_logits": NOT_MATRICES,
            "soft_labels": [*NOT_MATRICES, *NOT_BESIDE, *NOT_PROBABILITIES],
            "temperature": TEMPERATURE,
        },
    ),
    *(
        Entry(
            loss,
            {"student_logits": LOGITS, "soft_labels": PROBS, "temperature": 2.0, **options},
            {
                "student_logits": NOT_MATRICES,
                "soft_labels": [*NOT_MATRICES, *NOT_BESIDE, *NOT_PROBABILITIES],
                "temperature": TEMPERATURE,
                **{name: LOSS_OPTIONS[name] for name in options},
            },
        )
        for loss, options in (
            (ida_lightning.dkd_loss, {"label_mix": MIX, "alpha": 1.0, "beta": 8.0, "whole": False}),
            (ida_lightning.nkd_loss, {"label_mix": MIX, "gamma": 1.5, "whole": False}),
            (ida_lightning.dist_loss, {"beta": 1.0, "gamma": 1.0, "weights": ONES}),
            (ida_lightning.correlation_loss, {"form": "rank", "softness": 0.1}),
            (ida_lightning.multi_level_loss, {"factors": (1.0,), "relations": 1.0, "weights": ONES}),
        )
    ),
    *(
        Entry(loss, options, {name: LOSS_OPTIONS[name] for name in options})
        for loss, options in (
            (ida_lightning.DKD, {"alpha": 1.0, "beta": 8.0, "whole": False}),
            (ida_lightning.NKD, {"gamma": 1.5, "whole": False}),
            (ida_lightning.DIST, {"beta": 1.0, "gamma": 1.0}),
            (ida_lightning.CorrelationDistance, {"form": "pearson", "softness": 0.1}),
            (ida_lightning.MLKD, {"factors": (1.0,), "relations": 1.0}),
            (ida_lightning.LogitStandardisation, {"loss": ida_lightning.KL()}),
            (ida_lightning.KL, {}),
        )
    ),
    Entry(ida_lightning.standardise_logits, {"logits": LOGITS}, {"logits": NOT_MATRICES}),
    Entry(
        ida_lightning.probability_loss,
        {"student_logits": LOGITS, "soft_labels": PROBS, "temperature": 2.0},
        {
            "student_logits": NOT_MATRICES,
            "soft_labels": [*NOT_MATRICES, *NOT_BESIDE, *NOT_PROBABILITIES],
            "temperature": TEMPERATURE,
        },
    ),
    Entry(
        ida_lightning.logit_loss,
        {"student_logits": LOGITS, "teacher_logits": LOGITS},
        {"student_logits": NOT_MATRICES, "teacher_logits": [*NOT_MATRICES, *NOT_BESIDE]},
    ),
    Entry(
        ida_lightning.mixed_cross_entropy,
        {"student_logits": LOGITS, "label_mix": MIX},
        {"student_logits": [*NOT_MATRICES, LOGITS[:2]], "label_mix": BROKEN["label_mix"]},
    ),
    Entry(
        ida_lightning.order_penalty,
        {"student_logits": LOGITS, "label_mix": MIX, "sigma": 2.0, "form": "edges"},
        {
            "student_logits": [*NOT_MATRICES, LOGITS[:2]],
            "label_mix": BROKEN["label_mix"],
            "sigma": [*NOT_NUMBERS, -1],
            "form": NOT_CHOICES,
        },
    ),
    Entry(
        ida_lightning.expected_calibration_error,
        {"probs": PROBS, "labels": LABELS, "bins": 15},
        {
            "probs": [*NOT_MATRICES, *NOT_PROBABILITIES],
            "labels": [*NOT_LABELS, *OUT_OF_RANGE],
            "bins": [*NOT_INTS, 0],
        },
    ),
    Entry(
        ida_lightning.fit_temperature,
        {"logits": LOGITS, "labels": LABELS},
        {
            "logits": [*NOT_MATRICES, changed(LOGITS, nan), changed(LOGITS, inf)],
            "labels": [*NOT_LABELS, *OUT_OF_RANGE],
        },
    ),
    Entry(
        ida_lightning.kl_divergence,
        {"log_probs": LOGITS, "reference_log_probs": LOGITS},
        {
            "log_probs": [*NOT_MATRICES, PROBS, LOGITS + 1, changed(LOGITS, inf)],
            "reference_log_probs": [*NOT_MATRICES, *NOT_BESIDE, PROBS, LOGITS + 1],
        },
    ),
    Entry(
        ida_lightning.moved_mass,
        {"before": PROBS, "after": PROBS},
        {
            "before": [*NOT_MATRICES, *NOT_PROBABILITIES],
            "after": [*NOT_MATRICES, *NOT_BESIDE, *NOT_PROBABILITIES],
        },
    ),
    Entry(ida_lightning.order_statistics, {"values": PROBS, "label_mix": MIX}, BROKEN),
    Entry(ida_lightning.violated_rows, {"values": PROBS, "label_mix": MIX}, BROKEN),
    Entry(
        ida_lightning.prediction_agreement,
        {"student_logits": LOGITS, "teacher_logits": LOGITS},
        {"student_logits": NOT_MATRICES, "teacher_logits": [*NOT_MATRICES, *NOT_BESIDE]},
    ),
    Entry(prediction_entropy, {"logits": LOGITS}, {"logits": [*NOT_MATRICES, changed(LOGITS, nan)]}),
    Entry(
        ida_lightning.revise_soft_labels,
        {"soft_labels": PROBS, "label_mix": MIX, "eta": 0.8, "which": "all", "temperature": 1.0, "space": "softened"},
        {
            "soft_labels": [*NOT_MATRICES, *NOT_PROBABILITIES, PROBS[:2]],
            "label_mix": BROKEN["label_mix"],
            "eta": [*NOT_NUMBERS, 0, 1, -0.5, 2.0],
            "which": NOT_CHOICES,
            "temperature": TEMPERATURE,
            "space": NOT_CHOICES,
        },
    ),
    Entry(
        ida_lightning.blend_soft_labels,
        {"soft_labels": PROBS, "corrected": PROBS, "strength": 0.5},
        {
            "soft_labels": NOT_MATRICES,
            "corrected": [*NOT_MATRICES, *NOT_BESIDE],
            "strength": [*NOT_NUMBERS, -0.1, 1.1],
        },
    ),
    Entry(
        ida_lightning.add_soft_labels,
        {"supervision": SUPERVISION, "soft_labels": PROBS, "weight": 2.0},
        {
            "supervision": NOT_SUPERVISIONS[:-1],
            "soft_labels": [*NOT_MATRICES, *NOT_BESIDE],
            "weight": [*NOT_NUMBERS, -1],
        },
    ),
    Entry(ida_lightning.label_by_teacher, {"supervision": SUPERVISION}, {"supervision": NOT_SUPERVISIONS}),
    Entry(
        ida_lightning.pick_rows,
        {"supervision": SUPERVISION, "scores": PROBS[:, 0], "ratio": 0.5},
        {
            "supervision": NOT_SUPERVISIONS,
            "scores": [*NOT_TENSORS, LABELS, PROBS, PROBS[:2, 0], PROBS[:, 0].to("meta")],
            "ratio": [*NOT_NUMBERS, 0, 1.1],
        },
    ),
    Entry(ida_lightning.split_pool, {"supervision": SUPERVISION}, {"supervision": NOT_SUPERVISIONS}),
    Entry(
        ida_lightning.score_pool,
        {"criterion": "dissimilarity", "supervision": SUPERVISION, "clean": LABELS[:1], "pool": torch.tensor([1, 2])},
        {
            "criterion": [*NOT_CHOICES, "kl", "student_entropy"],
            "supervision": [*NOT_TENSORS, tuple(SUPERVISION)],
            "clean": [*NOT_TENSORS, PROBS[0], torch.tensor([9])],
            "pool": [*NOT_TENSORS, PROBS[0], torch.tensor([9])],
        },
    ),
    *(
        Entry(loss, {"student_logits": LOGITS, "supervision": SUPERVISION}, {**wrong, **weight})
        for wrong in [{"student_logits": NOT_MATRICES, "supervision": [*NOT_TENSORS, tuple(SUPERVISION)]}]
        for loss, weight in (
            (ida_lightning.revision_label_loss, {}),
            (ida_lightning.revision_logit_loss, {"weight": [*NOT_NUMBERS, -1]}),
            (ida_lightning.revision_probability_loss, {"weight": [*NOT_NUMBERS, -1]}),
        )
    ),
    Entry(
        ida_lightning.trusted_rows,
        {"scores": PROBS[:, 0], "fraction": 0.5},
        {"scores": [*NOT_TENSORS, LABELS, PROBS], "fraction": [*NOT_NUMBERS, -0.1, 1.1]},
    ),
    Entry(
        ida_lightning.teach_trusted_rows,
        {"supervision": SUPERVISION, "trusted": LABELS > 0, "transfer": 1.0},
        {
            "supervision": [*NOT_TENSORS, tuple(SUPERVISION)],
            "trusted": [*NOT_TENSORS, LABELS, LABELS[:2] > 0, (LABELS > 0).to("meta")],
            "transfer": [*NOT_NUMBERS, -0.1, 1.1],
        },
    ),
    Entry(SUPERVISION.select, {"rows": torch.tensor([0, 2])}, {"rows": NOT_ROWS}),
    Entry(
        lambda num_classes: MIX.order().levels(num_classes), {"num_classes": CLASSES}, {"num_classes": [*NOT_INTS, 0]}
    ),
    Entry(
        ida_lightning.blend_with_truth,
        {"soft_labels": PROBS, "label_mix": MIX, "share": 0.3, "rows": "all"},
        {**TRUTH, "share": [*NOT_NUMBERS, -0.1, 1.1], "rows": NOT_CHOICES},
    ),
    Entry(
        ida_lightning.missed_rows,
        {"values": PROBS, "label_mix": MIX},
        {"values": TRUTH["soft_labels"], "label_mix": TRUTH["label_mix"]},
    ),
    Entry(
        ida_lightning.truth_needed,
        {"values": PROBS, "label_mix": MIX},
        {"values": TRUTH["soft_labels"], "label_mix": TRUTH["label_mix"]},
    ),
    Entry(
        ida_lightning.isotonic_with_margin,
        {"soft_labels": PROBS, "label_mix": MIX, "margin": 0.3, "solver": "auto", "validate": None},
        {
            "soft_labels": [*TRUTH["soft_labels"], *NOT_PROBABILITIES],
            "label_mix": SOLVING["label_mix"],
            "margin": [*NOT_NUMBERS, -0.1, 1.1],
            **OPTIONS,
        },
    ),
    Entry(ida_lightning.exchange_values, {"soft_labels": PROBS, "label_mix": MIX}, TRUTH),
    Entry(
        project_onto_simplex,
        {"values": PROBS, "mass": 1.0},
        {"values": NOT_MATRICES, "mass": [*NOT_NUMBERS, -1]},
    ),
    Entry(
        Mixing,
        {"kind": "both", "probability": 1, "alpha": 1, "cutmix_share": 0.5, "images": 3},
        {
            "kind": NOT_CHOICES,
            "probability": [*NOT_NUMBERS, -0.1, 1.1],
            "alpha": TEMPERATURE,
            "cutmix_share": [*NOT_NUMBERS, -0.1, 1.1],
            "per_sample": NOT_FLAGS,
            "images": [*NOT_INTS, 0, 1],
            "distinct": NOT_FLAGS,
        },
    ),
    Entry(
        Mixing("both").draw,
        {"batch": BATCH, "size": (8, 8), "rng": RNG},
        {"batch": NOT_INTS, "size": SIZES, "rng": RNGS},
    ),
    Entry(
        ida_lightning.draw_mixup,
        {"batch": BATCH, "rng": RNG, "alpha": 1.0, "images": 2},
        {**DRAW, "images": [*NOT_INTS, 0, 1]},
    ),
    Entry(draw_cutmix, {"batch": BATCH, "size": (8, 8), "rng": RNG}, {**DRAW, "size": SIZES}),
    Entry(ida_lightning.draw_mosaic, {"batch": BATCH, "size": (8, 8), "rng": RNG}, {**DRAW, "size": SIZES}),
    Entry(
        ida_lightning.mix_images,
        {"images": IMAGES, "plan": PLAN},
        {"images": [*NOT_IMAGES, torch.rand(BATCH, 3, 9, 8), torch.rand(BATCH, 3, 4, 4)], "plan": NOT_PLANS},
    ),
    Entry(
        ida_lightning.mix_inputs,
        {"inputs": {"sounds": IMAGES.mean(1)}, "plan": draw_mixup(BATCH, np.random.default_rng(0))},
        {
            "inputs": [*NOT_TENSORS, LABELS, IMAGES[:2, 0], {"ids": LABELS}, {"a": IMAGES, "b": IMAGES[:2]}],
            "plan": NOT_PLANS,
        },
    ),
    Entry(
        ida_lightning.plan_batch,
        {"plan": draw_mixup(BATCH, np.random.default_rng(0)), "clean": CLEAN},
        {"plan": NOT_PLANS, "clean": [*NOT_TENSORS, tuple(CLEAN)]},
    ),
    Entry(
        ida_lightning.mix_rows,
        {"values": PROBS, "plan": InnerPlan(torch.tensor([[1], [2], [0]]), torch.full((BATCH, 2), 0.5))},
        {"values": [*NOT_TENSORS, LABELS, PROBS[:2]], "plan": [*NOT_TENSORS, PLAN, tuple(PLAN)]},
    ),
    Entry(
        ida_lightning.mix_batch,
        {"plan": PLAN, "clean": CLEAN},
        {"plan": NOT_PLANS, "clean": [*NOT_TENSORS, tuple(CLEAN)]},
    ),
    Entry(
        ida_lightning.stack_pool,
        {"clean": CLEAN, "mixes": [ida_lightning.mix_batch(PLAN, CLEAN)]},
        {"clean": [*NOT_TENSORS, tuple(CLEAN)], "mixes": [*NOT_TENSORS, [], [3], [tuple(CLEAN)]]},
    ),
    Entry(
        Supervision.from_teacher,
        {"batch": CLEAN, "teacher_logits": LOGITS, "temperature": 2.0, "soft_weight": 1.0, "hard_weight": 0.0},
        {
            "batch": [*NOT_TENSORS, tuple(CLEAN)],
            "teacher_logits": NOT_MATRICES,
            "temperature": TEMPERATURE,
            "soft_weight": [*NOT_NUMBERS, -1],
            "hard_weight": [*NOT_NUMBERS, -1],
        },
    ),
    Entry(
        ida_lightning.weighted_losses,
        {"student_logits": LOGITS, "supervision": SUPERVISION},
        {"student_logits": NOT_MATRICES, "supervision": [*NOT_TENSORS, tuple(SUPERVISION)]},
    ),
    Entry(
        ida_lightning.mix_labels,
        {"labels": LABELS, "plan": PLAN},
        {"labels": NOT_LABELS[:-1], "plan": NOT_PLANS},
    ),
    Entry(
        Augmentation,
        {"crop_padding": 1, "flip": True, "cutout": 2, "randaugment": 1, "magnitude": 5},
        {
            **dict.fromkeys(("crop_padding", "cutout", "randaugment"), NOT_INTS),
            "flip": NOT_FLAGS,
            "magnitude": [*NOT_INTS, 31],
        },
    ),
    Entry(
        Augmentation(flip=True).apply,
        {"images": (255 * IMAGES).to(torch.uint8), "rng": RNG, "fill": (0.5, 0.5, 0.5)},
        {
            "images": [*NOT_TENSORS, IMAGES, (255 * IMAGES).to(torch.uint8)[0]],
            "rng": RNGS,
            "fill": [None, *WORDS, 0.5, (0.5,), (0.5, 0.5, 2.0), (nan, 0.5, 0.5), ("a", "b", "c")],
        },
    ),
    Entry(
        build_model,
        {"model": "test_resnet", "num_classes": 3, "in_channels": 1, "stem": "small"},
        {
            "model": [*NOT_TENSORS, "", "resnet_that_is_none"],
            "num_classes": [*NOT_INTS[1:], 0],
            "in_channels": [*NOT_INTS, 0],
            "stem": NOT_CHOICES,
        },
    ),
    Entry(fingerprint, {"network": NETWORK}, {"network": NOT_NETWORKS}),
    Entry(pretrained_input, {"network": NETWORK}, {"network": NOT_NETWORKS}),
    Entry(lambda network: eval_mode(network).__enter__(), {"network": NETWORK}, {"network": NOT_NETWORKS}),
    Entry(
        put_weights,
        {"network": NETWORK, "weights": Weights(NETWORK.state_dict()), "path": "file"},
        {"network": NOT_NETWORKS, "weights": [*NOT_TENSORS, NETWORK.state_dict()]},
    ),
    Entry(
        lambda path: load_weights(path),
        {},
        {"path": [*NOT_TENSORS, "nowhere.safetensors", "", ".", Path("nowhere")]},
    ),
    Entry(lambda path: replacing(path).__enter__(), {}, {"path": [None, *WORDS[1:], 3, True]}),
    Entry(
        plot_corrections,
        {"images": IMAGES, "label_mix": MIX, "soft_labels": PROBS, "corrected": PROBS, "class_names": list("abcde")}
        | {"title": "", "others": None},
        {
            "images": [*NOT_TENSORS, IMAGES[:2], IMAGES[0], IMAGES[:, :2]],
            "label_mix": BROKEN["label_mix"],
            "soft_labels": NOT_MATRICES,
            "corrected": [*NOT_MATRICES, *NOT_BESIDE],
            "class_names": [None, [], list("abc"), 5],
            "others": [*WORDS, -1, 1.5],
        },
    ),
]


def name_of(entry):
    return getattr(entry.call, "__qualname__", str(entry.call)) + " of " + ", ".join(entry.right or entry.wrong)


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_wrong_inputs_are_refused_by_name(entry):
    if entry.right:
        entry.call(**entry.right)
    faults = []
    for name, values in entry.wrong.items():
        for number, value in enumerate(values):
            given = f"{name} = {number}: {value!r}"[:120]
            try:
                answer = entry.call(**{**entry.right, name: value})
            except InputError as error:
                if not re.search(rf"\b{name}\b", str(error)):
                    faults.append(f"{given}: not named in {error}")
            except Exception as error:  # noqa: BLE001 (the point of the test)
                faults.append(f"{given}: raw {type(error).__name__}: {error}"[:240])
            else:
                faults.append(f"{given}: accepted, {answer!r}"[:240])
    assert not faults, "\n".join(faults)


def test_sweep_is_large_and_leaves_no_public_function_out():
    assert sum(len(values) for entry in ENTRIES for values in entry.wrong.values()) >= 600
    swept = {entry.call for entry in ENTRIES}
    for name in ida_lightning.__all__:
        public = getattr(ida_lightning, name)
        room = getattr(public, "__module__", "").removeprefix("ida_lightning.").split(".")[0]
        if room in ROOMS and callable(public) and public not in UNCHECKED:
            assert public in swept, f"{name} is not swept"


RIGHT = {
    "an empty batch": (LOGITS[:0], PROBS[:0], MIX.select(slice(0))),
    "one row": (LOGITS[:1], PROBS[:1], MIX.select(slice(1))),
    "float64": (LOGITS.double(), PROBS.double(), MIX),
    "bfloat16": (LOGITS.bfloat16(), PROBS.bfloat16(), MIX),
    "float16 weights": (LOGITS, PROBS, LabelMix(MIX.labels, MIX.weights.half())),
    "transposed memory": (LOGITS.t().contiguous().t(), PROBS.t().contiguous().t(), MIX),
    "one class": (LOGITS[:, :1], torch.ones(BATCH, 1), LabelMix.unmixed(torch.zeros(BATCH, dtype=torch.int64))),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_unusual_inputs_get_the_answer_of_usual_ones(kind):
    logits, soft_labels, mix = RIGHT[kind]
    calls = [
        lambda z, p, m: ida_lightning.distillation_loss(z, p, 2.0),
        lambda z, p, m: ida_lightning.probability_loss(z, p, 2.0),
        lambda z, p, m: ida_lightning.logit_loss(z, z.flip(1)),
        lambda z, p, m: ida_lightning.mixed_cross_entropy(z, m),
        lambda z, p, m: ida_lightning.order_penalty(z, m),
        lambda z, p, m: ida_lightning.isotonic_soft_labels(p, m),
        lambda z, p, m: ida_lightning.isotonic_softmax(z, m, 2.0),
        lambda z, p, m: ida_lightning.moved_mass(p, p.flip(1)),
        lambda z, p, m: ida_lightning.violated_rows(p, m),
        lambda z, p, m: ida_lightning.order_statistics(p, m).tau,
        lambda z, p, m: prediction_entropy(z),
    ]
    for call in calls:
        found = call(logits, soft_labels, mix)
        usual = LabelMix(mix.labels.clone(), mix.weights.double())
        expected = call(logits.double().contiguous(), soft_labels.double().contiguous(), usual)
        assert found.shape == expected.shape
        tolerance = 0.05 if kind == "bfloat16" else 1e-3 if "16" in kind else 1e-5
        torch.testing.assert_close(found.double(), expected.double(), atol=tolerance, rtol=tolerance, equal_nan=True)
