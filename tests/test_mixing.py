import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from ida_lightning import (
    InputError,
    LabelMix,
    Mixing,
    MixPlan,
    draw_cutmix,
    draw_mixup,
    draw_mosaic,
    mix_images,
    mix_labels,
)
from tests.helpers.devices import DEVICES, never_waiting

DRAWS = {
    "mixup": lambda batch, size, rng, **options: draw_mixup(batch, rng, **options),
    "cutmix": draw_cutmix,
    "mosaic": draw_mosaic,
}


def rng(seed=0):
    return np.random.default_rng(seed)


def images_of(batch, height=8, width=8):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))


def pair_plan(partner, weight, box, opacity):
    """A plan of two images from the values of its partner and of the own image."""
    weight, opacity = (torch.stack((own, 1 - own), 1) for own in (weight, opacity))
    return MixPlan(partner[:, None], weight, box[:, None], opacity)


@st.composite
def mixings(draw):
    kind = draw(st.sampled_from(["mixup", "cutmix", "mosaic", "both"]))
    return Mixing(
        kind,
        probability=draw(st.sampled_from([0.5, 1.0])),
        alpha=draw(st.sampled_from([0.2, 1.0, 5.0])),
        per_sample=draw(st.booleans()),
        images=draw(st.integers(2, 4)) if kind in ("mixup", "both") else 2,
        distinct=draw(st.booleans()),
    )


@given(mixings(), st.integers(1, 9), st.sampled_from([(6, 10), (7, 3), (1, 1)]), st.integers(0, 2**32 - 1))
def test_label_weight_is_the_share_of_pixels(mixing, batch, size, seed):
    # Image i is 1 in channel i and 0 elsewhere, so the mean of a channel measures a share without knowing the boxes.
    plan = mixing.draw(batch, size, rng(seed))
    share = mix_images(torch.eye(batch)[:, :, None, None].expand(batch, batch, *size), plan).mean((2, 3))
    mix = mix_labels(torch.arange(batch), plan)
    mix.check_values(batch)
    torch.testing.assert_close(share, mix.dense(batch), atol=1e-6, rtol=0)
    for shares in (plan.weight, plan.opacity):
        torch.testing.assert_close(shares.sum(1), torch.ones(batch), atol=1e-6, rtol=0)
        assert (shares >= 0).all()
    others = plan.weight.shape[1] - 1
    assert [(field.dtype, field.shape) for field in plan] == [
        (torch.int64, (batch, others)),
        (torch.float32, (batch, others + 1)),
        (torch.int64, (batch, others, 4)),
        (torch.float32, (batch, others + 1)),
    ]


@given(st.sampled_from(list(DRAWS)), st.integers(1, 9), st.integers(2, 5), st.booleans(), st.integers(0, 99))
def test_distinct_partners(kind, batch, images, per_sample, seed):
    options = {"images": images} if kind == "mixup" else {}
    plan = DRAWS[kind](batch, (8, 8), rng(seed), per_sample=per_sample, distinct=True, **options)
    others = plan.partner.shape[1]
    for row, partners in enumerate(plan.partner.tolist()):
        assert (row in partners) == (batch == 1)
        assert len(set(partners)) == max(1, min(others, batch - 1))
    for column in plan.partner.T:
        assert column.sort().values.tolist() == list(range(batch)), "every image is used once per column"


def test_every_row_is_as_likely_a_partner_as_any_other():
    for distinct, allowed in ((True, 4), (False, 5)):
        draws = [draw_mixup(5, generator, images=3, distinct=distinct).partner for generator in [rng()] * 4000]
        for column in torch.stack(draws).unbind(2):
            counts = torch.stack([(column == row).float().mean(0) for row in range(5)])  # (partner, row)
            expected = torch.full((5, 5), 1 / allowed)
            if distinct:
                expected.fill_diagonal_(0)
            torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_agrees_with_torchvision_for_the_same_plan(kind):
    images, labels = images_of(6), torch.arange(6)
    reference = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=6)
    torch.manual_seed(3)
    expected, target = reference(images, labels)
    torch.manual_seed(3)
    params = reference.make_params([images])
    partner = torch.arange(6).roll(1)  # torchvision pairs every image with the one before it
    if kind == "mixup":
        weight, box = params["lam"], (0, 0, 0, 0)
        opacity = torch.full((6,), weight)
    else:
        left, top, right, bottom = params["box"]
        weight, box = params["lam_adjusted"], (top, left, bottom, right)
        opacity = torch.ones(6)
    plan = pair_plan(partner, torch.full((6,), weight), torch.tensor([box] * 6), opacity)
    torch.testing.assert_close(mix_images(images, plan), expected)
    torch.testing.assert_close(mix_labels(labels, plan).dense(6), target)


def slow_mix(images, plan):
    """The plan as its documentation words it, one pixel after the other."""
    mixed = torch.empty_like(images)
    for row in range(len(images)):
        sources = [row, *plan.partner[row].tolist()]
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                covering = [
                    source
                    for source, (top, left, bottom, right) in zip(sources[1:], plan.box[row].tolist(), strict=True)
                    if top <= y < bottom and left <= x < right
                ]
                pixels = images[sources, :, y, x].double()
                blended = (plan.opacity[row].double()[:, None] * pixels).sum(0)
                mixed[row, :, y, x] = images[covering[-1], :, y, x] if covering else blended
    return mixed


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_images_are_mixed_as_a_loop_over_pixels_does_it(batch, k, seed):
    draw = rng(seed)
    corners = np.sort(draw.integers(0, 6, (batch, k - 1, 2, 2)), axis=2).reshape(batch, k - 1, 4).clip(max=5)
    # Exact zeros in any column, rows that only blend, rows that only paste.
    opacity = draw.dirichlet([1] * k, batch) * (draw.random((batch, k)) < 0.6)
    opacity[opacity.sum(1) == 0, draw.integers(k)] = 1
    opacity = torch.from_numpy(opacity / opacity.sum(1, keepdims=True)).float()
    partner = torch.from_numpy(draw.integers(0, batch, (batch, k - 1)))
    box = torch.from_numpy(corners * (draw.random((batch, k - 1, 1)) < 0.6))
    plan = MixPlan(partner, opacity, box, opacity)
    images = images_of(batch, 5, 4)
    torch.testing.assert_close(mix_images(images, plan), slow_mix(images, plan), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_blends_without_overflow(dtype):
    images = images_of(6).to(dtype)
    largest = torch.finfo(dtype).max if dtype == torch.float16 else 1e30
    images[0], images[1] = largest, -largest
    for mixing in (Mixing("mixup", images=3), Mixing("cutmix"), Mixing("mosaic")):
        plan = mixing.draw(6, (8, 8), rng())
        mixed = mix_images(images, plan)
        assert mixed.dtype == dtype
        expected = mix_images(images.double(), plan)
        torch.testing.assert_close(mixed.double(), expected.to(dtype).double(), rtol=torch.finfo(dtype).eps, atol=0)
        assert (mixed == expected.to(dtype)).float().mean() > 0.98, "shares are not rounded to half precision"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "mixing", [Mixing("both", images=3), Mixing("mosaic"), Mixing("mixup", probability=0)], ids=lambda m: m.kind
)
def test_nothing_is_changed_and_nothing_waits(device, mixing):
    images, labels = images_of(5), torch.arange(5)
    plan = mixing.draw(5, (8, 8), rng())
    before = [field.clone() for field in plan]
    there, labels_there = images.to(device), labels.to(device)
    with never_waiting(device):
        mixed, mix = mix_images(there, plan), mix_labels(labels_there, plan)
    assert torch.equal(there.cpu(), images)
    assert torch.equal(labels_there.cpu(), torch.arange(5))
    assert all(torch.equal(a, b) for a, b in zip(plan, before, strict=True))
    assert mixed.data_ptr() != there.data_ptr(), "also where the plan mixes nothing"
    torch.testing.assert_close(mixed.cpu(), mix_images(images, plan))
    torch.testing.assert_close(mix.dense(5).cpu(), mix_labels(labels, plan).dense(5))


def test_gradients_reach_every_source():
    images = images_of(4).requires_grad_()
    plan = draw_mixup(4, rng(), images=3, distinct=True)
    mix_images(images, plan)[0].sum().backward()
    expected = torch.zeros(4).index_add_(0, torch.tensor([0, *plan.partner[0]]), plan.opacity[0])
    torch.testing.assert_close(images.grad[:, 0, 0, 0], expected)


def test_heaviest_class_comes_first_and_repeats_are_merged():
    pairs = pair_plan(
        torch.tensor([1, 0, 2]), torch.tensor([0.2, 0.9, 0.6]), torch.zeros(3, 4, dtype=torch.int64), torch.ones(3)
    )
    mix = mix_labels(torch.tensor([5, 7, 7]), pairs)
    assert mix.labels[:, 0].tolist() == [7, 7, 7]
    torch.testing.assert_close(mix.weights, torch.tensor([[0.8, 0.2], [0.9, 0.1], [1.0, 0.0]]))
    triples = draw_mixup(3, rng(), images=3)._replace(
        partner=torch.tensor([[1, 2], [2, 0], [2, 2]]),
        weight=torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.2, 0.3, 0.5]]),
    )
    mix = mix_labels(torch.tensor([5, 7, 7]), triples)
    assert mix.labels.tolist() == [[5, 7, 5], [5, 7, 5], [7, 7, 7]]
    torch.testing.assert_close(mix.weights, torch.tensor([[0.5, 0.5, 0.0], [0.7, 0.3, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("kind", list(DRAWS))
def test_one_draw_or_one_for_every_row(kind):
    shared, own = (DRAWS[kind](16, (32, 32), rng(), per_sample=per_sample) for per_sample in (False, True))
    assert all(len(field.unique(dim=0)) == 1 for field in shared[1:])
    assert len(shared.partner.unique(dim=0)) == 16
    assert len(own.weight.unique(dim=0)) > 10


def test_choice_of_kind_and_probability_of_mixing():
    rows = 20_000
    plan = Mixing("both", probability=0.6, cutmix_share=0.25, images=3).draw(rows, (32, 32), rng())
    blended = plan.opacity[:, 0] < 1
    cut = (plan.box != 0).any(2).any(1)
    itself = (plan.partner == torch.arange(rows)[:, None]).all(1)
    unmixed = itself & (plan.weight[:, 0] == 1)
    assert not (blended & cut).any()
    assert not (unmixed & blended).any()
    # A box that rounds or is clipped to nothing is a mixed row too.
    assert unmixed.float().mean() == pytest.approx(0.4, abs=0.02)
    assert blended.float().mean() == pytest.approx(0.6 * 0.75, abs=0.02)
    assert cut.float().mean() == pytest.approx(0.6 * 0.25, abs=0.02)
    assert torch.equal(plan.weight[blended], plan.opacity[blended])
    assert (plan.opacity[~blended] == torch.tensor([1.0, 0.0, 0.0])).all()
    assert (plan.box[~cut] == 0).all()
    assert torch.equal(plan.partner[cut][:, 1], torch.arange(rows)[cut]), "the third image of a row that shows two"
    together = [Mixing("both", 0.6, cutmix_share=0.25, per_sample=False).draw(4, (9, 9), rng(s)) for s in range(900)]
    assert all(len(plan.opacity.unique(dim=0)) == 1 for plan in together)
    assert np.mean([float(plan.opacity[0, 0]) < 1 for plan in together]) == pytest.approx(0.45, abs=0.05)


@pytest.mark.parametrize(("alpha", "images"), [(0.05, 2), (0.4, 2), (1.0, 3), (3.0, 4)])
def test_shares_follow_the_dirichlet_distribution(alpha, images):
    share = draw_mixup(20_000, rng(), alpha=alpha, images=images).weight.double()
    expected = stats.dirichlet([alpha] * images)
    np.testing.assert_allclose(share.mean(0), expected.mean(), atol=0.01)
    np.testing.assert_allclose(share.T.cov(), expected.cov(), atol=0.01)
    marginal = stats.beta(alpha, alpha * (images - 1))
    if alpha > 0.1:  # below, float32 rounds many shares to 1
        assert all(stats.kstest(column[:2000], marginal.cdf).pvalue > 1e-3 for column in share.T.numpy())


def params_of(transform, draws):
    torch.manual_seed(0)
    image = torch.empty(1, 3, 40, 60)
    return [transform.make_params([image]) for _ in range(draws)]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_mixup_shares_are_distributed_as_in_torchvision(alpha):
    theirs = [params["lam"] for params in params_of(v2.MixUp(num_classes=2, alpha=alpha), 2000)]
    ours = draw_mixup(2000, rng(), alpha=alpha).weight[:, 0].numpy()
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_boxes_are_distributed_as_in_torchvision(alpha):
    params = params_of(v2.CutMix(num_classes=2, alpha=alpha), 3000)
    left, top, right, bottom = np.array([entry["box"] for entry in params]).T
    box = draw_cutmix(3000, (40, 60), rng(), alpha=alpha)
    ours = dict(zip(("top", "left", "bottom", "right"), box.box[:, 0].T.numpy(), strict=True))
    # Rounding differs: they cut half sides down to pixels, which makes boxes up to two pixels shorter.
    for theirs, mine, side in (
        (top + bottom, ours["top"] + ours["bottom"], 40),
        (left + right, ours["left"] + ours["right"], 60),
        (bottom - top, ours["bottom"] - ours["top"], 40),
        (right - left, ours["right"] - ours["left"], 60),
    ):
        assert stats.ks_2samp(mine, theirs).statistic < 0.06
        assert mine.mean() == pytest.approx(theirs.mean(), abs=0.03 * side)
    theirs = np.array([entry["lam_adjusted"] for entry in params])
    assert box.weight[:, 0].mean() == pytest.approx(theirs.mean(), abs=0.03)
    assert box.weight[:, 0].std() == pytest.approx(theirs.std(), abs=0.03)


def test_boxes_stay_inside_and_are_what_the_label_weighs():
    plan = draw_cutmix(2000, (40, 60), rng())
    top, left, bottom, right = plan.box[:, 0].unbind(1)
    assert torch.stack((top, left, 40 - bottom, 60 - right)).amin() >= 0
    assert ((bottom >= top) & (right >= left)).all()
    area = (bottom - top) * (right - left) / (40 * 60)
    torch.testing.assert_close(plan.weight, torch.stack((1 - area, area), 1))


def test_mosaic_has_one_image_per_quadrant():
    plan = draw_mosaic(4000, (40, 60), rng(), alpha=2.0, distinct=True)
    for row in range(200):
        shown = torch.full((40, 60), row)
        for partner, (top, left, bottom, right) in zip(plan.partner[row], plan.box[row].tolist(), strict=True):
            assert (shown[top:bottom, left:right] == row).all(), "quadrants do not overlap"
            shown[top:bottom, left:right] = partner
        areas = [(shown == image).float().mean() for image in (row, *plan.partner[row])]
        torch.testing.assert_close(torch.stack(areas), plan.weight[row])
    corners = torch.tensor([[0, 0], [0, 59], [39, 0], [39, 59]])
    inside = (corners[:, None, None] >= plan.box[..., :2]) & (corners[:, None, None] < plan.box[..., 2:])
    pasted = inside.all(3).any(2)  # (corners, batch)
    full = (plan.weight > 0).all(1)
    assert full.float().mean() > 0.95
    assert (pasted[:, full].sum(0) == 3).all()
    torch.testing.assert_close((~pasted[:, full]).float().mean(1), torch.full((4,), 0.25), atol=0.03, rtol=0)
    # The product of two Beta(2, 2) coordinates has mean 1/4 and second moment (1/4 + 1/20)^2.
    np.testing.assert_allclose(plan.weight.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(plan.weight.square().mean(0), 0.09, atol=0.01)


def test_same_generator_same_plan_whatever_the_global_state():
    for kind in ("mixup", "cutmix", "mosaic", "both"):
        first = Mixing(kind).draw(9, (8, 8), rng(5))
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002
        again = Mixing(kind).draw(9, (8, 8), rng(5))
        other = Mixing(kind).draw(9, (8, 8), rng(6))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first.weight, other.weight)


def test_no_mixing():
    assert Mixing("none").draw(4, (8, 8), rng()) is None
    assert Mixing("cutmix").draw(0, (8, 8), rng()) is None
    images, labels = images_of(4), torch.arange(4)
    for kind, k in (("mixup", 2), ("mosaic", 4)):
        plan = Mixing(kind, probability=0).draw(4, (8, 8), rng())
        assert torch.equal(plan.partner, labels[:, None].expand(4, k - 1))
        assert torch.equal(mix_images(images, plan), images)
        assert torch.equal(mix_labels(labels, plan).dense(4), LabelMix.unmixed(labels).dense(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cutout"}, "kind: expected one of none, mixup, cutmix, mosaic, both, got 'cutout'"),
        ({"probability": 1.1}, "probability: expected a number from 0 to 1, got 1.1"),
        ({"cutmix_share": -0.1}, "cutmix_share: expected a number from 0 to 1, got -0.1"),
        ({"alpha": 0}, "alpha: expected a number > 0, got 0"),
        ({"alpha": float("nan")}, "alpha: expected a number > 0, got nan"),
        ({"alpha": float("inf")}, "alpha: expected a number > 0, got inf"),
        ({"kind": "mixup", "images": 1}, "images: expected at least 2, got 1"),
        ({"kind": "mosaic", "images": 4}, "images: expected 2 where kind is mosaic, got 4"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Mixing(**options)


def test_draws_and_images_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="alpha: expected a number > 0, got -1"):
        draw_cutmix(4, (8, 8), rng(), alpha=-1)
    with pytest.raises(InputError, match="images: expected at least 2, got 1"):
        draw_mixup(4, rng(), images=1)
    plan = draw_mixup(4, rng())
    for images, came in (
        (images_of(3), "float32 (3, 3, 8, 8)"),
        (torch.zeros(4, 3, 8, 8).byte(), "uint8 (4, 3, 8, 8)"),
    ):
        with pytest.raises(InputError) as refused:
            mix_images(images, plan)
        expected = "images: expected floating point (4, channels, height, width), the batch of the plan, got "
        assert str(refused.value) == expected + came


def test_the_cut_of_a_mosaic_is_even_handed():
    box = draw_mosaic(4000, (8, 8), rng()).box.flatten(0, 1)
    upper = box[(box[:, 0] == 0) & (box[:, 2] < 8) & (box[:, 2] > 0)]
    lower = box[(box[:, 2] == 8) & (box[:, 0] > 0) & (box[:, 0] < 8)]
    heights = (upper[:, 2] - upper[:, 0]).float().mean(), (lower[:, 2] - lower[:, 0]).float().mean()
    assert heights == pytest.approx((4, 4), abs=0.15), "rounded, not cut off"
