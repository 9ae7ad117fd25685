"""Metrics on models so simple that their values are known: to 1e-12 in float64, unless something else is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import whylight
from whylight.models import Transform, wrap_module
from whylight_metrics import (
    ROAD,
    AverageDrop,
    AverageIncrease,
    Deletion,
    Insertion,
    MaxSensitivity,
    PointingGame,
    Randomisation,
)

VALUE = whylight.OutputIndex((0,))
"""The sum itself, not its probability."""


def approx(value: float, tolerance: float = 1e-12) -> object:
    return pytest.approx(value, abs=tolerance)


class Touched(nn.Module):
    """1 where the input has (or has not) a pixel that is 0: the models of xplique's perfect insertion and deletion."""

    def __init__(self, inserted: bool) -> None:
        super().__init__()
        self.inserted = inserted

    def forward(self, inputs: Tensor) -> Tensor:
        zero = inputs[:, 0] == 0
        value = (~zero).any(2).any(1) if self.inserted else ~zero.any(2).any(1)
        return torch.stack((value, ~value), 1).to(inputs.dtype)


class TestInsertionAndDeletion:
    def test_of_a_sum_whose_map_is_perfect(self, measure, sums) -> None:
        """Four pixels worth 4, 3, 2 and 1: the curves are 0 4 7 9 10 and 10 6 3 1 0."""
        weights = torch.tensor([[3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
        inputs = torch.ones(1, 1, 2, 2, dtype=torch.float64)
        options = {"steps": 4, "baseline": "zero"}
        inserted = measure(Insertion, sums(weights), inputs, weights[None], [VALUE], options)
        deleted = measure(Deletion, sums(weights), inputs, weights[None], [VALUE], options)
        assert inserted.curve.x.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert inserted.curve.y.tolist() == [[0, 4, 7, 9, 10]]
        assert deleted.curve.y.tolist() == [[10, 6, 3, 1, 0]]
        assert inserted.values.item() == approx(25 / 4)
        assert deleted.values.item() == approx(15 / 4)

    def test_the_worst_map_has_the_curves_of_the_best_one_backwards(self, measure, sums) -> None:
        weights = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        inputs = torch.ones(1, 1, 5, 6, dtype=torch.float64)
        options = {"steps": 30, "baseline": "zero"}
        best = measure(Deletion, sums(weights), inputs, weights[None], [VALUE], options)
        worst = measure(Insertion, sums(weights), inputs, -weights[None], [VALUE], options)
        assert torch.allclose(best.curve.y.flip(1), worst.curve.y, atol=1e-12)

    def test_a_class_is_taken_by_its_probability(self, measure, sums) -> None:
        weights = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
        inputs = torch.ones(1, 1, 1, 2, dtype=torch.float64)
        found = measure(Deletion, sums(weights), inputs, weights[None], [0], {"steps": 2})
        expected = [1 / (1 + math.exp(-value)) for value in (3, 1, 0)]
        assert found.curve.y[0].tolist() == pytest.approx(expected, abs=1e-12)

    def test_half_of_the_pixels_count(self, measure, sums) -> None:
        """The curve reaches its end half way."""
        weights = torch.cat((torch.ones(1, 5), torch.zeros(1, 5)), 1).double() / 5
        inputs = torch.ones(1, 1, 1, 10, dtype=torch.float64)
        options = {"steps": 10, "baseline": "zero"}
        assert measure(Deletion, sums(weights), inputs, weights[None], [VALUE], options).values.item() == approx(0.25)
        assert measure(Insertion, sums(weights), inputs, weights[None], [VALUE], options).values.item() == approx(0.75)

    @pytest.mark.parametrize("inserted", [True, False])
    def test_xpliques_perfect_cases(self, measure, inserted: bool) -> None:
        """One pixel decides: all of the curve but its first interval is 1, or 0."""
        model = wrap_module(Touched(inserted), transform=Transform.plain((8, 8), 1))
        inputs = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
        metric, expected = (Insertion, 1 - 0.5 / 64) if inserted else (Deletion, 0.5 / 64)
        found = measure(metric, model, inputs, inputs[:, 0], [VALUE] * 2, {"steps": 64, "baseline": "zero"})
        assert found.values.tolist() == pytest.approx([expected] * 2, abs=1e-6)

    def test_there_are_no_more_steps_than_pixels(self, measure, sums) -> None:
        weights = torch.ones(2, 2, dtype=torch.float64)
        inputs = torch.ones(1, 1, 2, 2, dtype=torch.float64)
        assert len(measure(Insertion, sums(weights), inputs, weights[None], [VALUE], {"steps": 9}).curve.x) == 5

    def test_a_coarse_map_is_enlarged_and_lies_over_the_whole_input(self, measure, sums) -> None:
        weights = torch.zeros(8, 12, dtype=torch.float64)
        weights[:4, 6:] = 1
        inputs = torch.ones(1, 1, 8, 12, dtype=torch.float64)
        options = {"steps": 96, "baseline": "zero"}
        coarse = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        found = measure(Insertion, sums(weights), inputs, coarse, [VALUE], options)
        assert found.curve.y[0, :7].tolist() == list(range(7))  # from the corner that counts


class TestShownParts:
    def test_drop_and_increase_of_a_sum(self, measure, sums) -> None:
        """Half of a sum that speaks for the class is lost; what spoke against it is hidden."""
        weights = torch.tensor([[1.0, -1.0, 0.5, 0.0]], dtype=torch.float64)
        inputs = torch.ones(2, 1, 1, 4, dtype=torch.float64)
        maps = torch.tensor([[[0.0, 0.0, 1.0, 0.0]], [[0.0, 3.0, 0.0, 0.0]]])
        whole, kept, against = (1 / (1 + math.exp(-value)) for value in (0.5, 0.5, -1.0))
        drops = measure(AverageDrop, sums(weights), inputs, maps, [0, 0]).values.tolist()
        rises = measure(AverageIncrease, sums(weights), inputs, maps, [0, 0]).values.tolist()
        assert drops == pytest.approx([(whole - kept) / whole, (whole - against) / whole], abs=1e-12)
        assert rises == [0, 0]
        best = torch.tensor([[[1.0, 0.0, 0.5, 0.0]]]).expand(2, 1, 4)
        assert measure(AverageIncrease, sums(weights), inputs, best, [0, 0]).values.tolist() == [1, 1]

    def test_of_no_class_they_say_nothing(self, measure, sums) -> None:
        weights = torch.ones(1, 4, dtype=torch.float64)
        with pytest.raises(whylight.InvalidInput, match="no class"):
            measure(AverageDrop, sums(weights), torch.ones(1, 1, 1, 4).double(), weights[None], [VALUE])


class TestPointingGame:
    @pytest.mark.parametrize(
        ("peak", "tolerance", "hit"),
        [((30, 30), 0, 1), ((30, 44), 0, 0), ((30, 44), 15, 1), ((30, 54), 15, 1), ((30, 55), 15, 0), ((0, 0), 15, 0)],
    )
    def test_hits_and_misses(self, measure, sums, peak: tuple[int, int], tolerance: float, hit: int) -> None:
        """The object is columns and rows 20 to 40 of 100; the middle of column 54 is 14.5 pixels away from it."""
        map = torch.zeros(1, 100, 100)
        map[0][peak] = 1
        options = {"box": [0.2, 0.2, 0.4, 0.4], "tolerance": tolerance}
        model = sums(torch.ones(100, 100).double())
        found = measure(PointingGame, model, torch.ones(1, 1, 100, 100).double(), map, [0], options)
        assert found.values.tolist() == [hit]

    def test_a_region_brings_its_own_place(self, measure, sums) -> None:
        map = torch.zeros(3, 4, 4)
        map[:, 3, 0] = 1
        mask = np.zeros((2, 2))
        mask[1, 0] = 1
        targets = [
            whylight.Region(0, mask=mask),
            whylight.Region(0, left=0.5, top=0, right=1, bottom=1),
            whylight.Region(0, left=0, top=0.5, right=0.5, bottom=1),
        ]
        model = sums(torch.ones(4, 4).double())
        found = measure(PointingGame, model, torch.ones(3, 1, 4, 4).double(), map, targets, {"tolerance": 0})
        assert found.values.tolist() == [1, 0, 1]

    def test_without_a_box_it_asks_for_one(self, measure, sums) -> None:
        model = sums(torch.ones(4, 4).double())
        with pytest.raises(whylight.InvalidInput, match="where is the object"):
            measure(PointingGame, model, torch.ones(1, 1, 4, 4).double(), torch.ones(1, 4, 4), [0])


def inputs_as_maps(batch: whylight.Batch, subject: whylight.Subject | None = None) -> Tensor:
    return batch.inputs[:, 0]


class TestMaxSensitivity:
    def test_without_a_change_it_is_0(self, measure, sums) -> None:
        inputs = torch.rand(2, 1, 4, 4, dtype=torch.float64)
        model = sums(torch.ones(4, 4).double())
        found = measure(
            MaxSensitivity, model, inputs, inputs[:, 0], [0, 0], {"radius": 0, "samples": 2}, explain=inputs_as_maps
        )
        assert found.values.tolist() == [0, 0]

    def test_of_a_map_that_is_the_input_it_is_the_longest_change(self, measure, sums) -> None:
        inputs = torch.ones(1, 1, 50, 50, dtype=torch.float64)
        model = sums(torch.ones(50, 50).double())
        options = {"radius": 0.1, "samples": 3}
        found = measure(MaxSensitivity, model, inputs, inputs[:, 0], [0], options, explain=inputs_as_maps)
        source = torch.Generator().manual_seed(0)
        draws = [0.1 * (2 * torch.rand(1, 50, 50, generator=source, dtype=torch.float64) - 1) for _ in range(3)]
        assert found.values.item() == approx(max(float(draw.norm()) for draw in draws) / 50)

    def test_more_samples_never_make_it_smaller(self, measure, sums) -> None:
        inputs = torch.ones(1, 1, 4, 4, dtype=torch.float64)
        model = sums(torch.ones(4, 4).double())
        values = [
            measure(
                MaxSensitivity, model, inputs, inputs[:, 0], [0], {"samples": samples}, explain=inputs_as_maps
            ).values.item()
            for samples in (1, 5, 20)
        ]
        assert values == sorted(values)
        assert values[0] < values[-1]


class TestRandomisationOfMaps:
    def test_a_map_that_asks_no_model_does_not_change(self, measure) -> None:
        torch.manual_seed(0)
        model = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), transform=Transform.plain((4, 4), 1))
        inputs = torch.rand(2, 1, 4, 4)
        for similarity in ("rank-correlation", "ssim"):
            options = {"similarity": similarity}
            found = measure(Randomisation, model, inputs, inputs[:, 0], [0, 0], options, explain=inputs_as_maps)
            assert found.values.tolist() == pytest.approx([1, 1], abs=1e-12)

    def test_a_map_that_is_the_weights_changes_altogether(self, measure) -> None:
        torch.manual_seed(0)
        model = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)), transform=Transform.plain((32, 32), 1))

        def weights(batch: whylight.Batch, subject: whylight.Subject | None = None) -> Tensor:
            module = (subject.model if subject else model).module
            return module[1].weight[0].view(1, 32, 32)

        inputs = torch.rand(1, 1, 32, 32)
        found = measure(Randomisation, model, inputs, weights(None), [0], explain=weights)
        assert abs(found.values.item()) < 0.1


class TestROAD:
    def test_a_constant_picture_loses_nothing(self, measure, sums) -> None:
        """Whatever is removed comes back from its neighbours."""
        weights = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        inputs = torch.full((1, 1, 6, 7), 0.3, dtype=torch.float64)
        found = measure(ROAD, sums(weights), inputs, weights[None], [VALUE], {"noise": 0})
        assert found.values.item() == approx(0, 1e-5)

    def test_the_orders_add_up_to_the_combination(self, measure, sums) -> None:
        weights = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        inputs = torch.rand(2, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        maps = inputs[:, 0] * weights
        orders = ("most-relevant-first", "least-relevant-first", "combined")
        most, least, combined = (
            measure(ROAD, sums(weights), inputs, maps, [VALUE] * 2, {"order": order}).values for order in orders
        )
        assert torch.allclose((most + least) / 2, combined, atol=1e-12)

    def test_a_perfect_map_is_better_than_its_opposite(self, measure, sums) -> None:
        weights = torch.zeros(12, 12, dtype=torch.float64)
        weights[4:8, 4:8] = 1
        inputs = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
        inputs[..., 4:8, 4:8] = 1
        best, worst = (
            measure(ROAD, sums(weights), inputs, sign * weights[None], [VALUE], {"percentages": [20]}).values.item()
            for sign in (1, -1)
        )
        assert best > 5
        assert worst < -5
