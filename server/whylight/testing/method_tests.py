"""The suite that every method must pass: what the server, and everyone who shares a batch, relies on.

It knows nothing of what a method computes: whether the numbers are right is for the author's own tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from whylight.errors import Cancelled, InvalidInput
from whylight.method import Attribution, Maps, Presentation
from whylight.models import Model, wrap_module
from whylight.options import parse_options
from whylight.subject import CancelToken
from whylight.target import Rank, Target
from whylight.testing.fingerprints import fingerprint
from whylight.testing.networks import conv_gap_net
from whylight.testing.running import Targets, run_method


class MethodTests:
    """Subclass it in a test module, with a name that begins with Test, and set `method`.

    `options` are those to test with: choose them so that one run is quick. Override `network` for a method that needs
    something special of a network, and `inputs` if it cannot take those.
    """

    method: ClassVar[type[Attribution]]
    options: ClassVar[Mapping[str, Any]] = {}
    batch_tolerance: ClassVar[float] = 0.0
    """How far an input's map may depend on its batch, as a part of its largest magnitude. 0: not by a single bit."""
    device_tolerance: ClassVar[float] = 1e-4
    """How far the map of a CUDA device may be from that of the CPU, as a part of its largest magnitude."""

    def network(self) -> nn.Module:
        """Return the network to test on, with five classes or more; the same weights each time."""
        return conv_gap_net()

    def inputs(self) -> Tensor:
        """Return three normalised inputs `[3, 3, H, W]`, not square; the same each time."""
        return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Model:
        """The network as a model, loaded once for all tests of the class."""
        return wrap_module(cls().network())

    def run(self, model: Model, inputs: Tensor, targets: Targets, **more: Any) -> Maps:
        """Run the method with `options`."""
        return run_method(self.method, model, inputs, targets, self.options, **more)

    def test_there_is_one_map_for_each_target(self, model: Model) -> None:
        """Maps are `[M, h, w]`, floating, and carry no graph."""
        maps = self.run(model, self.inputs(), [0, 1, (2, 3)]).maps
        assert maps.shape[0] == 4
        assert min(maps.shape[1:]) > 0
        assert maps.dtype in (torch.float32, torch.float64)
        assert not maps.requires_grad

    def test_the_numbers_are_finite(self, model: Model) -> None:
        """Neither maps nor checks hold NaN or infinities."""
        given = self.run(model, self.inputs(), [0, 1, 2])
        assert torch.isfinite(given.maps).all()
        for name, check in given.checks.items():
            assert torch.isfinite(check).all(), name

    def test_the_same_seed_gives_the_same_bits(self, model: Model) -> None:
        """A caller who repeats a call gets the same answer."""
        once, again = (self.run(model, self.inputs(), [0, 1, 2], seeds=[7, 8, 9]) for _ in range(2))
        assert torch.equal(once.maps, again.maps)

    def test_a_stochastic_method_follows_its_seed(self, model: Model) -> None:
        """Each input follows its own seed, and `stochastic` says whether there is anything to follow."""
        once = self.run(model, self.inputs(), [0, 1, 2], seeds=[7, 8, 9]).maps
        other = self.run(model, self.inputs(), [0, 1, 2], seeds=[7, 8, 10]).maps
        assert torch.equal(once[:2], other[:2])
        assert torch.equal(once[2], other[2]) is not self.method.stochastic

    def test_an_input_gets_the_same_map_alone_and_in_a_batch(self, model: Model) -> None:
        """Who shares its batch is no business of an input's."""
        inputs = self.inputs()
        targets: list[Target | int | None] = [4, Rank(1), None]
        together = self.run(model, inputs, targets, seeds=[7, 8, 9])
        for row, target in enumerate(targets):
            alone = self.run(model, inputs[row : row + 1], [target], seeds=[7 + row])
            self._agree(alone.maps[0], together.maps[row])
            for name, check in alone.checks.items():
                self._agree(check[0], together.checks[name][row])

    def test_a_target_gets_the_same_map_alone_and_beside_others(self, model: Model) -> None:
        """Nor is which other targets the caller asks for."""
        inputs = self.inputs()
        targets: list[tuple[Target | int, ...]] = [(0, 1), (2,), (3, Rank(0), 4)]
        together = self.run(model, inputs, targets).maps
        position = 0
        for row, several in enumerate(targets):
            for target in several:
                alone = self.run(model, inputs[row : row + 1], [target], seeds=[row]).maps
                self._agree(alone[0], together[position])
                position += 1

    def test_inputs_need_not_be_square(self, model: Model) -> None:
        """Height and width are not mixed up."""
        wide = self.run(model, self.inputs(), [0, 1, 2]).maps
        tall = self.run(model, self.inputs().transpose(2, 3).contiguous(), [0, 1, 2]).maps
        assert wide.shape[1:] == tall.shape[1:][::-1]
        assert wide.shape[1] <= wide.shape[2]

    def test_the_model_and_the_inputs_are_left_as_they_were(self) -> None:
        """Weights, gradients, modes and hooks are as before: other threads are using them."""
        module, inputs = self.network(), self.inputs()
        model = wrap_module(module)
        before = fingerprint(module), fingerprint(model.module), inputs.clone()
        self.run(model, inputs, [0, 1, (2, 3)])
        assert fingerprint(module) == before[0]
        assert fingerprint(model.module) == before[1]
        assert torch.equal(inputs, before[2])
        assert not inputs.requires_grad
        assert inputs.grad is None

    def test_frozen_parameters_make_no_difference(self, model: Model) -> None:
        """Neither `requires_grad=False` nor the caller's `no_grad` changes the map."""
        frozen = wrap_module(self.network().requires_grad_(False))
        targets = [0, 1, 2]
        with torch.no_grad():
            maps = self.run(frozen, self.inputs(), targets).maps
        assert torch.equal(maps, self.run(model, self.inputs(), targets).maps)

    def test_cancelled_work_stops(self, model: Model) -> None:
        """A method that works through its subject is cancelled by it; others call ``batch.cancel.check()``."""
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(Cancelled):
            self.run(model, self.inputs(), [0, 1, 2], cancel=cancel)

    def test_the_options_travel(self) -> None:
        """Options arrive as JSON numbers, where 30 may be written 30.0, and leave as JSON."""
        kind = self.method.Options
        for chosen in (kind(), parse_options(kind, self.options)):
            written = json.loads(json.dumps(_floats(chosen.model_dump(mode="json"))))
            assert parse_options(kind, written) == chosen

    def test_every_option_is_described(self) -> None:
        """Clients build forms from the schema: every option has a default and a description."""
        schema = self.method.Options.model_json_schema()
        json.dumps(schema)
        assert schema["type"] == "object"
        assert not schema.get("required")
        for name, option in schema["properties"].items():
            assert option.get("description"), f"option {name!r} has no description"

    def test_an_unknown_option_is_refused(self) -> None:
        """A misspelt option is an error that names it."""
        with pytest.raises(InvalidInput) as caught:
            parse_options(self.method.Options, {**self.options, "no_such_option": 1})
        assert [violation.field for violation in caught.value.violations] == ["options.no_such_option"]

    def test_it_says_how_much_it_costs_and_how_to_show_it(self) -> None:
        """Costs are positive, and one more target costs no more than a whole input."""
        method, options = self.method(), parse_options(self.method.Options, self.options)
        assert 0 < method.cost_per_target(options) <= method.cost(options)
        assert isinstance(method.presentation(options), Presentation)

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_cuda_device_gives_the_same_map(self, model: Model) -> None:
        """A CUDA device agrees with the CPU."""
        if self.method.stochastic:
            pytest.skip("a device has random numbers of its own")
        here = self.run(model, self.inputs(), [0, 1, (2, 3)]).maps
        cuda = wrap_module(self.network(), device="cuda")
        there = self.run(cuda, self.inputs().cuda(), [0, 1, (2, 3)]).maps
        assert there.is_cuda
        _close(there.cpu(), here, self.device_tolerance)

    def _agree(self, one: Tensor, other: Tensor) -> None:
        if self.batch_tolerance:
            _close(one, other, self.batch_tolerance)
        else:
            assert torch.equal(one, other), f"largest difference {float((one - other).abs().max()):.3g}"


def _close(one: Tensor, other: Tensor, tolerance: float) -> None:
    scale = float(other.abs().max())
    assert float((one - other).abs().max()) <= tolerance * scale


def _floats(value: Any) -> Any:
    """Write whole numbers as floats, as google.protobuf.Struct does."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
