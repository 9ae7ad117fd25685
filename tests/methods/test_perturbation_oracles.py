"""The perturbation methods against captum, scikit-learn, closed forms and enumeration, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from whylight.errors import Cancelled
from whylight.models import wrap_module
from whylight.testing import conv_gap_net, functional_relu_net, relu_net, run_method
from whylight_perturbation import LIME, RISE, KernelSHAP, Occlusion
from whylight_perturbation.shapley import coalitions
from whylight_perturbation.surrogate import fit

SIZE = (64, 96)


@pytest.fixture(scope="module")
def image():
    noise = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return F.interpolate(noise, SIZE, mode="bicubic")


@pytest.fixture(scope="module", params=["resnet18", "vgg_features", "mobilenet_v3_small", "convnext_atto"])
def network(request):
    """Real architectures with random weights in float64; of VGG the first four convolutions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "convnext_atto":
            made = pytest.importorskip("timm").create_model("convnext_atto", num_classes=20)
        elif request.param == "vgg_features":
            from torchvision.models import vgg11

            made = nn.Sequential(
                vgg11(weights=None).features[:11], nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 20)
            )
        else:
            import torchvision.models

            made = getattr(torchvision.models, request.param)(weights=None, num_classes=20)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return made.double().eval()


class Linear(nn.Module):
    """Three scores, each a linear function of the pixels."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.linear = nn.Linear(3 * math.prod(size), 3).double()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(4)
            self.linear.weight.copy_(torch.randn(self.linear.weight.shape, generator=generator))

    def forward(self, inputs):
        return self.linear(inputs.flatten(1))

    def weights(self, index):
        return self.linear.weight[index].view(3, *self.size).detach()


def linear(size=SIZE):
    net = Linear(size)
    return net, wrap_module(net, input_size=size)


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float64
    theirs = theirs.double()
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


# Occlusion


def test_occlusion_is_captums(network, image):
    """Windows overlap, and the last ones reach over the edge: 64 and 96 are no whole number of strides."""
    attr = pytest.importorskip("captum.attr")
    window, stride = (40, 60), (30, 45)
    theirs = attr.Occlusion(network).attribute(image, (3, *window), (3, *stride), target=[3, 17], baselines=0)
    ours = run_method(Occlusion, network, image, [3, 17], {"window": window, "stride": stride, "fill": "zero"}).maps
    close(ours, theirs.detach()[:, 0], 1e-6)  # captum adds up in float32


@pytest.mark.parametrize("make", [relu_net, functional_relu_net])
def test_occlusion_of_relu_nets_with_every_fill_is_captums(make, image):
    attr = pytest.importorskip("captum.attr")
    net = make().double()
    fills = {"mean": image.mean((2, 3), keepdim=True).expand_as(image), "black": 0.0, "grey": 0.5}
    for fill, baseline in fills.items():
        theirs = attr.Occlusion(net).attribute(image, (3, 16, 16), (3, 8, 8), target=1, baselines=baseline)
        ours = run_method(Occlusion, net, image, [1, 1], {"window": 16, "stride": 8, "fill": fill}).maps
        close(ours, theirs.detach()[:, 0], 1e-6)  # captum adds up in float32


def test_occlusion_of_a_linear_model_by_windows_that_do_not_overlap_is_their_sum(image):
    net, model = linear()
    found = run_method(Occlusion, model, image, [(0, 2), 1], {"window": (16, 24), "stride": (16, 24), "fill": "mean"})
    for place, (row, index) in enumerate([(0, 0), (0, 2), (1, 1)]):
        pixels = (net.weights(index) * (image[row] - image[row].mean((1, 2), keepdim=True))).sum(0)
        sums = pixels.view(4, 16, 4, 24).sum((1, 3))
        close(found.maps[place], sums.repeat_interleave(16, 0).repeat_interleave(24, 1), 1e-12)


# RISE


def masks_of(masks, grid, probability, size, seed):
    """The paper's masks, one by one: enlarge the grid by interpolation, cut a window out."""
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(masks, grid, grid, generator=generator) < probability).double()
    down, across = (math.ceil(length / grid) for length in size)
    tops = torch.randint(down, (masks,), generator=generator)
    lefts = torch.randint(across, (masks,), generator=generator)
    enlarged = F.interpolate(grids[:, None], ((grid + 1) * down, (grid + 1) * across), mode="bilinear")[:, 0]
    return torch.stack(
        [one[top : top + size[0], left : left + size[1]] for one, top, left in zip(enlarged, tops, lefts, strict=True)]
    )


def test_rise_is_the_papers_equation(network, image):
    masks = masks_of(6, 5, 0.4, SIZE, seed=11)
    with torch.no_grad():
        scores = network(image[:1] * masks[:, None])[:, [3, 17]]
    expected = torch.einsum("nt,nhw->thw", scores, masks) / (0.4 * 6)
    options = {"masks": 6, "grid": 5, "probability": 0.4}
    ours = run_method(RISE, network, image[:1], [(3, 17)], options, seeds=[11]).maps
    close(ours, expected, 1e-9)


def test_rise_that_hides_nothing_gives_everybody_the_score(image):
    net = conv_gap_net().double()
    found = run_method(RISE, net, image, [1, 2], {"masks": 40, "probability": 1}).maps
    scores = net(image).detach()[[0, 1], [1, 2]]
    close(found, scores[:, None, None].expand(2, *SIZE), 1e-12)


def test_rise_of_a_linear_model_tends_to_its_expectation():
    """E[f(x⊙M) M] / p, from the masks' mean and covariance over all shifts; the error falls as one over √N."""
    size, grid, probability = (12, 16), 3, 0.3
    net, model = linear(size)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weights = (net.weights(0) * image[0]).sum(0).flatten()
    down, across = 4, 6
    cells = torch.eye(grid * grid, dtype=torch.float64).view(-1, 1, grid, grid)
    enlarged = F.interpolate(cells, ((grid + 1) * down, (grid + 1) * across), mode="bilinear")[:, 0]
    windows = torch.stack(
        [enlarged[:, y : y + 12, x : x + 16].flatten(1) for y in range(down) for x in range(across)]
    )  # [shifts, cells, pixels]
    covariance = probability * (1 - probability) * torch.einsum("scp,scq->pq", windows, windows) / len(windows)
    bias = net.linear.bias[0].detach()
    expected = weights.sum() * probability + bias + covariance @ weights / probability
    found = run_method(RISE, model, image, [0], {"masks": 20000, "grid": grid, "probability": probability}).maps
    error = (found.flatten() - expected).abs().max() / (expected.max() - expected.min())
    assert float(error) < 0.1


# Superpixels: LIME and kernel SHAP

PARTS = (2, 3)


def parts_of(size, down, across):
    rows, columns = torch.arange(size[0]) * down // size[0], torch.arange(size[1]) * across // size[1]
    return rows[:, None] * across + columns


def value(net, image, labels, members, index):
    shown = torch.isin(labels, torch.tensor(members))
    with torch.no_grad():
        return net((image * shown)[None])[0, index]


def exact_shapley(net, image, labels, index):
    """By the definition: the mean over all orders of what a player adds, as a sum over subsets."""
    count = int(labels.max()) + 1
    worth = {
        frozenset(members): value(net, image, labels, list(members), index)
        for size in range(count + 1)
        for members in itertools.combinations(range(count), size)
    }
    found = []
    for player in range(count):
        others = [other for other in range(count) if other != player]
        gain = torch.zeros((), dtype=torch.float64)
        for size in range(count):
            share = 1 / (count * math.comb(count - 1, size))
            for members in itertools.combinations(others, size):
                gain = gain + share * (worth[frozenset((*members, player))] - worth[frozenset(members)])
        found.append(gain)
    return torch.stack(found)


@pytest.mark.parametrize("make", [conv_gap_net, relu_net, functional_relu_net])
def test_kernel_shap_of_all_coalitions_is_shapley(make, image):
    net = make().double()
    options = {"segments": 6, "segmentation": "grid", "samples": 64, "fill": "zero"}
    found = run_method(KernelSHAP, net, image, [(0, 3), 2], options)
    labels = parts_of(SIZE, *PARTS)
    for place, (row, index) in enumerate([(0, 0), (0, 3), (1, 2)]):
        close(found.maps[place], exact_shapley(net, image[row], labels, index)[labels], 1e-10)
    assert float(found.checks["efficiency_residual"].abs().max()) <= 1e-14


def test_kernel_shap_of_a_real_network_is_shapley(network, image):
    options = {"segments": 3, "segmentation": "grid", "samples": 8, "fill": "zero"}
    found = run_method(KernelSHAP, network, image[:1], [7], options)
    labels = parts_of(SIZE, 1, 3)
    close(found.maps[0], exact_shapley(network, image[0], labels, 7)[labels], 1e-9)


def test_kernel_shap_of_some_coalitions_is_nearly_shapley_and_still_adds_up():
    size = (24, 32)
    net = relu_net().double()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = parts_of(size, 2, 4)
    exact = exact_shapley(net, image[0], labels, 1)[labels]
    errors = []
    for samples in (24, 160):
        options = {"segments": 6, "segmentation": "grid", "samples": samples, "fill": "zero"}
        found = run_method(KernelSHAP, net, image, [1], {**options, "segments": 8})
        assert float(found.checks["efficiency_residual"].abs().max()) <= 1e-14
        errors.append(float((found.maps[0] - exact).abs().max() / exact.abs().max()))
    assert errors[1] < errors[0]
    assert errors[1] < 0.1


def test_kernel_shap_of_a_linear_model_needs_few_samples(image):
    """Whatever is drawn, a game in which parts only add up is solved exactly."""
    net, model = linear()
    options = {"segments": 24, "segmentation": "grid", "samples": 100, "fill": "zero"}
    found = run_method(KernelSHAP, model, image[:1], [2], options).maps[0]
    labels = parts_of(SIZE, 4, 6)
    pixels = (net.weights(2) * image[0]).sum(0)
    sums = torch.zeros(24, dtype=torch.float64).index_add(0, labels.flatten(), pixels.flatten())
    close(found, sums[labels], 1e-10)


@pytest.mark.parametrize(("players", "count"), [(1, 8), (2, 2), (5, 30), (5, 29), (9, 100), (12, 301), (50, 998)])
def test_coalitions_stand_for_the_whole_kernel(players, count):
    """Their weights are those of the kernel, size by size where it is complete; complements come together."""
    shown, weights = coalitions(players, count, torch.Generator().manual_seed(3))
    assert len(shown) == len(weights) <= count
    sizes = shown.sum(1)
    assert bool(((sizes > 0) & (sizes < players)).all())
    kernel = sum((players - 1) / (size * (players - size)) for size in range(1, players))
    assert float(weights.sum()) == pytest.approx(kernel)
    counted = dict.fromkeys(map(tuple, shown.tolist()), 0.0)
    for row, weight in zip(map(tuple, shown.tolist()), weights.tolist(), strict=True):
        counted[row] += weight
    for row, weight in counted.items():
        assert counted[tuple(not one for one in row)] == pytest.approx(weight)
    if 2**players - 2 <= count:
        assert len(counted) == 2**players - 2


@pytest.mark.parametrize(("kind", "strength"), [("ridge", 1.0), ("ridge", 0.01), ("lasso", 0.01), ("lasso", 0.1)])
def test_surrogates_are_scikit_learns(kind, strength):
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(300, 20, generator=generator) < 0.5
    weights = torch.rand(300, generator=generator, dtype=torch.float64)
    truth = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    scores = features.double() @ truth + 0.3 * torch.randn(300, 2, generator=generator, dtype=torch.float64) + 5
    found = fit(features, scores, weights, kind, strength)
    for target in range(2):
        theirs = (
            linear_model.Ridge(alpha=strength)
            if kind == "ridge"
            else linear_model.Lasso(alpha=strength, tol=1e-14, max_iter=100000)
        )
        theirs.fit(features.double().numpy(), scores[:, target].numpy(), sample_weight=weights.numpy())
        np.testing.assert_allclose(found.coefficients[target].numpy(), theirs.coef_, rtol=1e-7, atol=1e-9)
        r2 = theirs.score(features.double().numpy(), scores[:, target].numpy(), sample_weight=weights.numpy())
        assert float(found.r2[target]) == pytest.approx(r2, abs=1e-9)


def test_a_target_that_never_changes_is_explained_by_nothing():
    features = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    for kind in ("ridge", "lasso"):
        found = fit(features, torch.full((50, 1), 3.0), torch.ones(50), kind, 0.1)
        assert float(found.coefficients.abs().max()) == 0
        assert float(found.r2) == 1


def test_a_lasso_can_be_given_up_while_it_is_computed():
    """Thousands of sweeps of a system that is nearly singular take minutes."""
    source = torch.Generator().manual_seed(2)
    features = torch.rand(60, 50, generator=source) < 0.5
    asked = 0

    def check():
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Cancelled("the call was cancelled")

    with pytest.raises(Cancelled):
        fit(features, torch.rand(60, 1, generator=source), torch.ones(60), "lasso", 1e-9, check)
    assert asked == 4


def test_lime_of_a_linear_model_is_its_weights(image):
    net, model = linear()
    options = {"segments": 6, "segmentation": "grid", "samples": 200, "fill": "zero", "regularisation": 0}
    found = run_method(LIME, model, image[:1], [2], options)
    labels = parts_of(SIZE, *PARTS)
    pixels = (net.weights(2) * image[0]).sum(0)
    sums = torch.zeros(6, dtype=torch.float64).index_add(0, labels.flatten(), pixels.flatten())
    close(found.maps[0], sums[labels], 1e-10)
    assert float(found.checks["surrogate_r2"]) == pytest.approx(1)


def small():
    return torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def test_lime_is_captums_up_to_chance():
    """Both draw samples of their own; with a thousand, coefficients agree to a few hundredths."""
    attr = pytest.importorskip("captum.attr")
    models = pytest.importorskip("captum._utils.models.linear_model")
    similarity = pytest.importorskip("captum.attr._core.lime").get_exp_kernel_similarity_function("cosine", 0.25)
    net = relu_net().double()
    image, labels = small(), parts_of((16, 24), *PARTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lime = attr.Lime(net, interpretable_model=models.SkLearnRidge(alpha=1.0), similarity_func=similarity)
        theirs = lime.attribute(
            image, target=1, feature_mask=labels[None, None], n_samples=1000, perturbations_per_eval=50
        )
    options = {"segments": 6, "segmentation": "grid", "samples": 1000, "fill": "zero"}
    ours = run_method(LIME, net, image, [1], options).maps
    close(ours, theirs[:, 0], 0.05)


def test_kernel_shap_is_captums_up_to_chance():
    attr = pytest.importorskip("captum.attr")
    net = relu_net().double()
    image, labels = small(), parts_of((16, 24), *PARTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = attr.KernelShap(net).attribute(
            image, target=1, feature_mask=labels[None, None], n_samples=1000, perturbations_per_eval=50
        )
    options = {"segments": 6, "segmentation": "grid", "samples": 64, "fill": "zero"}
    ours = run_method(KernelSHAP, net, image, [1], options).maps
    close(ours, theirs[:, 0], 0.05)


def test_two_classes_of_a_photo_get_different_maps(demo):
    """On the demo model with its own weights: what makes a cup is not all that makes an espresso."""
    model, _, images = demo
    options = {"samples": 34, "segments": 16, "segmentation": "grid"}
    found = run_method(KernelSHAP, model.model, images[1:], [("espresso", "cup")], options)
    assert float(torch.corrcoef(found.maps.flatten(1))[0, 1]) < 0.9
    assert float(found.maps[0].max()) > 0
    assert float(found.checks["efficiency_residual"].abs().max()) <= 1e-5
