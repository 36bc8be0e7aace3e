import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from ida_lightning import InputError, LabelMix, Mixing, MixPlan, mix_images, mix_labels


def rng(seed=0):
    return np.random.default_rng(seed)


def images_of(batch, height=8, width=8):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("per_sample", [True, False])
def test_label_weight_is_the_share_of_pixels_on_non_square_images(kind, batch, per_sample):
    # Own images are 1 everywhere, partners' differ, so the pixel mean measures the share without knowing the box.
    for seed in range(20):
        plan = Mixing(kind, per_sample=per_sample).draw(batch, (6, 10), rng(seed))
        one_hot = torch.eye(batch)[:, :, None, None].expand(batch, batch, 6, 10)
        share = mix_images(one_hot.contiguous(), plan).mean((2, 3))
        torch.testing.assert_close(share, mix_labels(torch.arange(batch), plan).dense(batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_agrees_with_torchvision_for_the_same_lambda_and_pairing(kind, monkeypatch):
    images, labels = images_of(6), torch.arange(6)
    reference = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=6)
    torch.manual_seed(3)
    expected, target = reference(images, labels)
    torch.manual_seed(3)
    params = reference.make_params([images]) if hasattr(reference, "make_params") else reference._get_params([images])
    partner = torch.arange(6).roll(1)  # torchvision pairs every image with the one before it
    if kind == "mixup":
        weight, box = params["lam"], (0, 0, 0, 0)
        opacity = torch.full((6,), float(weight))
    else:
        left, top, right, bottom = params["box"]
        weight, box = params["lam_adjusted"], (top, left, bottom, right)
        opacity = torch.ones(6)
    plan = MixPlan(partner, torch.full((6,), float(weight)), torch.tensor([box] * 6), opacity)
    torch.testing.assert_close(mix_images(images, plan), expected)
    torch.testing.assert_close(mix_labels(labels, plan).dense(6), target)


def test_heaviest_class_comes_first_and_same_class_pairs_are_merged():
    plan = MixPlan(
        torch.tensor([1, 0, 2]), torch.tensor([0.2, 0.9, 0.6]), torch.zeros(3, 4, dtype=torch.int64), torch.ones(3)
    )
    mix = mix_labels(torch.tensor([5, 7, 7]), plan)
    assert mix.labels[:, 0].tolist() == [7, 7, 7]
    torch.testing.assert_close(mix.weights, torch.tensor([[0.8, 0.2], [0.9, 0.1], [1.0, 0.0]]))


def test_nothing_is_changed_in_place():
    images, labels = images_of(5), torch.arange(5)
    before = images.clone()
    for kind in ("mixup", "cutmix"):
        plan = Mixing(kind).draw(5, (8, 8), rng())
        mix_images(images, plan)
        mix_labels(labels, plan)
    assert torch.equal(images, before)
    assert torch.equal(labels, torch.arange(5))


def test_one_draw_or_one_for_every_row():
    shared = Mixing("mixup", per_sample=False).draw(16, (8, 8), rng())
    assert len(shared.weight.unique()) == 1
    own = Mixing("mixup", per_sample=True).draw(16, (8, 8), rng())
    assert len(own.weight.unique()) == 16
    boxes = Mixing("cutmix", per_sample=True).draw(16, (32, 32), rng()).box
    assert len(boxes.unique(dim=0)) > 10


def test_choice_of_kind_and_probability_of_mixing():
    plan = Mixing("both", probability=0.6, cutmix_share=0.25).draw(20_000, (32, 32), rng())
    unmixed = (plan.partner == torch.arange(20_000)) & (plan.weight == 1)
    blended = plan.opacity < 1
    cut = ~unmixed & ~blended
    assert unmixed.float().mean() == pytest.approx(0.4, abs=0.02)
    assert blended.float().mean() == pytest.approx(0.6 * 0.75, abs=0.02)
    assert cut.float().mean() == pytest.approx(0.6 * 0.25, abs=0.02)
    assert torch.equal(plan.weight[blended], plan.opacity[blended])


def test_lambda_follows_beta():
    weight = Mixing("mixup", alpha=0.4).draw(20_000, (8, 8), rng()).weight
    assert weight.mean() == pytest.approx(0.5, abs=0.01)
    assert weight.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_same_generator_same_plan_whatever_the_global_state():
    first = Mixing("both").draw(9, (8, 8), rng(5))
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    again = Mixing("both").draw(9, (8, 8), rng(5))
    other = Mixing("both").draw(9, (8, 8), rng(6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.weight, other.weight)


def test_boxes_stay_inside_and_match_lambda_where_nothing_is_clipped():
    plan = Mixing("cutmix").draw(2000, (40, 60), rng())
    top, left, bottom, right = plan.box.unbind(1)
    assert torch.stack((top, left, 40 - bottom, 60 - right)).amin() >= 0
    assert ((bottom >= top) & (right >= left)).all()
    area = (bottom - top) * (right - left) / (40 * 60)
    torch.testing.assert_close(plan.weight, 1 - area.float())


def test_no_mixing_is_no_plan():
    assert Mixing("none").draw(4, (8, 8), rng()) is None
    images = images_of(4)
    plan = Mixing("mixup", probability=0).draw(4, (8, 8), rng())
    assert torch.equal(mix_images(images, plan), images)
    assert torch.equal(
        mix_labels(torch.arange(4), plan).weights, LabelMix.pair(torch.arange(4), torch.arange(4), 1).weights
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cutout"}, "kind: expected one of none, mixup, cutmix, both, got 'cutout'"),
        ({"probability": 1.1}, "probability: expected a probability from 0 to 1, got 1.1"),
        ({"cutmix_share": -0.1}, "cutmix_share: expected a probability from 0 to 1, got -0.1"),
        ({"alpha": 0}, "alpha: expected a number > 0, got 0"),
        ({"alpha": float("nan")}, "alpha: expected a number > 0, got nan"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Mixing(**options)
