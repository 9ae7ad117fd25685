"""Metrics against grad-cam, scikit-image and scipy on real networks; tolerances are said where they are used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined, neighbors_weights
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity as skimage_ssim
from torch import nn

from whylight.models import Model, Transform, wrap_module
from whylight_metrics import ROAD, AverageDrop, AverageIncrease
from whylight_metrics.imputation import imputed
from whylight_metrics.similarity import rank_correlation, structural_similarity

SIZE = (32, 48)

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of grad-cam, on tensors


class Sharp(nn.Module):
    """Scores of four classes, each a weighted mean of the pixels: probabilities that depend a good deal on them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(20 * torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(2)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs[:, None] * self.weights).mean((2, 3, 4))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Sharp().eval()


@pytest.fixture(scope="module")
def model(net: nn.Module) -> Model:
    return wrap_module(net, transform=Transform.plain(SIZE, 3))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def numpy_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scattered", [True, False])
def test_imputation_solves_the_system_of_the_authors(part: float, scattered: bool) -> None:
    """To 1e-5 of the range, in float64, against scipy's direct solution of the authors' matrix."""
    input = drawn(3, *SIZE).double()
    order = drawn(*SIZE, seed=1) if scattered else torch.linspace(0, 1, SIZE[0] * SIZE[1]).view(SIZE)
    removed = order < order.flatten().quantile(part)
    matrix, constant = NoisyLinearImputer.setup_sparse_system(
        (~removed).double().numpy(), input.numpy(), neighbors_weights
    )
    expected = torch.from_numpy(spsolve(csc_matrix(matrix), constant)).T
    found = imputed(input[None], removed[None])[0]
    assert (found[:, removed] - expected).abs().max() < 1e-5
    assert torch.equal(found[:, ~removed], input[:, ~removed])


def test_imputation_gives_the_same_bits_alone_and_in_a_batch() -> None:
    inputs, removed = drawn(3, 3, *SIZE), drawn(3, *SIZE, seed=1) < torch.tensor([0.1, 0.5, 0.95]).view(3, 1, 1)
    together = imputed(inputs, removed)
    for row in range(3):
        assert torch.equal(imputed(inputs[row : row + 1], removed[row : row + 1])[0], together[row])


def test_road_is_that_of_grad_cam(measure, model: Model, net: nn.Module) -> None:
    """To 2e-3: grad-cam draws other noise and its percentiles may remove one pixel more."""
    inputs = drawn(2, 3, *SIZE)
    maps = (inputs * net.weights[[1, 3]].detach()).sum(1)
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    targets = [ClassifierOutputSoftmaxTarget(index) for index in (1, 3)]
    expected = ROADCombined()(inputs, maps.numpy(), targets, net)
    found = measure(ROAD, model, inputs, maps, [1, 3])
    assert found.values.tolist() == pytest.approx(expected.tolist(), abs=2e-3)
    assert abs(expected).max() > 5e-3  # there is something to compare


def test_drop_and_increase_are_those_of_grad_cam(measure, model: Model, net: nn.Module) -> None:
    """To 1e-6. grad-cam's drop is not divided by the probability, as the paper's is."""
    inputs, maps = drawn(4, 3, *SIZE), drawn(4, *SIZE, seed=1)
    maps = torch.stack([(map - map.min()) / (map.max() - map.min()) for map in maps])
    classes = [0, 1, 2, 3]
    targets = [ClassifierOutputSoftmaxTarget(index) for index in classes]
    with torch.no_grad():
        whole = net(inputs).softmax(1)[range(4), classes]
    drop = DropInConfidence()(inputs, maps[:, None].numpy(), targets, net) / whole.numpy()
    rise = IncreaseInConfidence()(inputs, maps[:, None].numpy(), targets, net)
    assert measure(AverageDrop, model, inputs, maps, classes).values.tolist() == pytest.approx(drop.tolist(), abs=1e-6)
    assert measure(AverageIncrease, model, inputs, maps, classes).values.tolist() == rise.tolist()
    assert set(rise.tolist()) == {0, 1}


def test_rank_correlation_is_spearmans_with_ties() -> None:
    one, other = (drawn(9, 11) * 4).round().double(), drawn(9, 11, seed=1).double()
    assert rank_correlation(one, other).item() == pytest.approx(
        spearmanr(one.flatten(), other.flatten()).statistic, abs=1e-12
    )


def test_structural_similarity_is_that_of_scikit_image() -> None:
    one, other = drawn(20, 31).double(), drawn(20, 31, seed=1).double()
    x, y = ((map - map.min()) / (map.max() - map.min()) for map in (one.numpy(), other.numpy()))
    full = skimage_ssim(x, y, data_range=1.0, full=True)[1][3:-3, 3:-3]
    assert structural_similarity(one, other).item() == pytest.approx(np.mean(full), abs=1e-12)
