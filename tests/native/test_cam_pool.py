"""cam_pool: what it computes, for every scheme, layout, dtype and size, and what its bits do not depend on."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from whylight import ops

pytestmark = pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)

SHAPES = [
    (2, 64, 7, 7),
    (3, 2049, 7, 7),
    (1, 1, 1, 1),
    (2, 300, 1, 1),
    (2, 1, 13, 17),
    (2, 70, 13, 17),
    (1, 33, 56, 56),
    (2, 40, 1, 9),
    (2, 130, 5),
    (2, 9, 3, 4, 5),
    (0, 4, 7, 7),
    (2, 0, 7, 7),
    (2, 4, 0, 7),
]
LAYOUTS = ["contiguous", "channels_last", "offset", "sliced", "transposed", "expanded"]


def pair(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Activations as after a ReLU, and gradients, in a layout."""

    def laid_out(values: Tensor) -> Tensor:
        if layout == "channels_last":
            # dense, with the channels innermost, for any number of dimensions
            order = (0, *range(2, values.dim()), 1)
            back = (0, values.dim() - 1, *range(1, values.dim() - 1))
            return values.permute(order).contiguous().permute(back)
        if layout == "offset":
            return torch.cat([values.new_zeros(3), values.flatten()])[3:].view(shape)
        if layout == "sliced":
            return torch.cat([values, values], dim=1)[:, : shape[1]]
        if layout == "transposed":
            return values.transpose(-1, -2).contiguous().transpose(-1, -2)
        return values

    activations = laid_out(torch.randn(shape, dtype=torch.float64).relu().to(dtype).to(device))
    gradients = laid_out((torch.randn(shape, dtype=torch.float64) * 0.1).to(dtype).to(device))
    if layout == "expanded":
        gradients = torch.randn(shape[:2], dtype=torch.float64).to(dtype).to(device)
        gradients = gradients.view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)
    return activations, gradients


def agree(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    # Relative to the map, not to the pixel: a sum of thousands of terms of both signs may cancel.
    scale = expected.abs().max().clamp(min=1) if expected.numel() else 1
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_equals_its_definition_in_double_precision(scheme, shape, layout, eps):
    activations, gradients = pair(shape, layout, torch.float64)
    result = ops.cam_pool(activations, gradients, scheme, eps=eps)
    expected = ops.cam_pool_reference(activations, gradients, scheme, eps=eps)
    assert result.dtype == torch.float64
    assert result.shape == expected.shape
    # grad-cam++ divides by 2 + S g, which may come close to 0 and then magnifies the rounding of S.
    agree(result, expected, 1e-12 if scheme != "grad-cam++" else 1e-8)


@pytest.mark.parametrize("shape", [(2, 2048, 7, 7), (3, 65, 14, 14), (2, 70, 30, 30)], ids=str)
def test_grad_cam_plus_plus_is_exact_where_it_is_well_conditioned(shape):
    activations, gradients = pair(shape, "contiguous", torch.float64)
    gradients = gradients.abs()  # 2 + S g is then at least 2
    for eps in (0.0, 1e-6):
        result = ops.cam_pool(activations, gradients, "grad-cam++", eps=eps)
        agree(result, ops.cam_pool_reference(activations, gradients, "grad-cam++", eps=eps), 1e-12)


def plain(activations: Tensor, gradients: Tensor, scheme: str, eps: float) -> Tensor:
    """What an explanation library writes, in the dtype of its arguments."""
    a, g = activations.flatten(2), gradients.flatten(2)
    if scheme == "grad-cam":
        weights = g.mean(2, keepdim=True)
    elif scheme == "grad-cam++":
        alpha = torch.where(g != 0, g**2 / (2 * g**2 + a.sum(2, keepdim=True) * g**3 + eps), torch.zeros_like(g))
        weights = (g.relu() * alpha).sum(2, keepdim=True)
    elif scheme == "xgrad-cam":
        weights = (g * a).sum(2, keepdim=True) / (a.sum(2, keepdim=True) + eps)
    else:
        weights = g.relu() if scheme == "layer-cam" else g
    return (weights * a).sum(1).view(-1, *activations.shape[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("shape", [(2, 2048, 7, 7), (2, 512, 14, 14), (1, 33, 56, 56), (2, 70, 13, 17)], ids=str)
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_errs_no_more_than_plain_torch_in_the_same_dtype(scheme, shape, layout, dtype, device):
    """The rule of FlashAttention's tests: at most twice the error of plain torch, each against double precision."""
    activations, gradients = pair(shape, layout, dtype, device)
    gradients = gradients.abs() + 0.01 if scheme == "grad-cam++" else gradients
    eps = 0.0 if dtype == torch.float32 else 1e-3
    result = ops.cam_pool(activations, gradients, scheme, eps=eps)
    assert result.dtype == torch.float32
    exact = ops.cam_pool_reference(activations.double(), gradients.double(), scheme, eps=eps)
    error = (result.double() - exact).abs().max()
    allowed = (plain(activations, gradients, scheme, eps).double() - exact).abs().max()
    assert error <= 2 * allowed + 1e-6 * exact.abs().max()


@pytest.mark.parametrize("scheme", ops.SCHEMES)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)], ids=str)
def test_takes_activations_and_gradients_of_different_dtypes(dtypes, scheme, device):
    activations, gradients = pair((2, 65, 7, 7), "contiguous", torch.float32, device)
    activations, gradients = activations.to(dtypes[0]), gradients.to(dtypes[1])
    result = ops.cam_pool(activations, gradients, scheme, eps=1e-3)
    agree(result, ops.cam_pool_reference(activations, gradients, scheme, eps=1e-3), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_float64_argument_makes_the_result_float64(dtype):
    activations, gradients = pair((2, 5, 7, 7), "contiguous", torch.float64)
    result = ops.cam_pool(activations.to(dtype), gradients, "grad-cam")
    assert result.dtype == torch.float64
    agree(result, ops.cam_pool_reference(activations.to(dtype), gradients, "grad-cam"), 1e-12)


@pytest.mark.parametrize("layouts", [("contiguous", "channels_last"), ("channels_last", "contiguous")], ids=str)
@pytest.mark.parametrize("shape", [(2, 33, 7, 7), (2, 33, 9), (2, 9, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_takes_activations_and_gradients_in_different_layouts(scheme, shape, layouts):
    torch.manual_seed(1)
    activations, _ = pair(shape, layouts[0], torch.float64)
    torch.manual_seed(1)
    _, gradients = pair(shape, layouts[1], torch.float64)
    result = ops.cam_pool(activations, gradients, scheme, eps=1e-6)
    agree(result, ops.cam_pool_reference(activations, gradients, scheme, eps=1e-6), 1e-8)


@pytest.mark.parametrize("shape", [(3, 131, 7, 7), (3, 65, 14, 14), (3, 66, 40, 40)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_rows_say_whose_each_target_is(scheme, layout, shape, device):
    activations, _ = pair(shape, layout, torch.float32, device)
    rows = [0, 0, 0, 0, 0, 2, 2]
    _, gradients = pair((len(rows), *shape[1:]), layout, torch.float32, device)
    result = ops.cam_pool(activations, gradients, scheme, rows, eps=1e-6)
    for m, row in enumerate(rows):
        alone = ops.cam_pool(activations[row : row + 1], gradients[m : m + 1], scheme, eps=1e-6)
        assert torch.equal(result[m], alone[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("shape", [(5, 300, 7, 7), (5, 70, 14, 14), (5, 33, 40, 40)], ids=str)
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(scheme, shape, layout, dtype, device):
    activations, gradients = pair(shape, layout, dtype, device)
    together = ops.cam_pool(activations, gradients, scheme, eps=1e-6)
    for n in range(shape[0]):
        alone = ops.cam_pool(activations[n : n + 1], gradients[n : n + 1], scheme, eps=1e-6)
        assert torch.equal(together[n], alone[0])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 2048, 7, 7), (6, 512, 14, 14), (2, 64, 112, 112)], ids=str)
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_bits_do_not_depend_on_the_number_of_threads(scheme, shape, layout, threads):
    activations, gradients = pair(shape, layout, torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(ops.cam_pool(activations, gradients, scheme))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_repeats_to_the_bit(device):
    activations, gradients = pair((4, 512, 14, 14), "contiguous", torch.float32, device)
    for scheme in ops.SCHEMES:
        first = ops.cam_pool(activations, gradients, scheme)
        assert all(torch.equal(first, ops.cam_pool(activations, gradients, scheme)) for _ in range(10))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["activations", "gradients"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("scheme", ops.SCHEMES)
def test_nan_and_infinity_propagate_as_in_the_definition(scheme, layout, where, value, device):
    activations, gradients = pair((3, 40, 7, 7), layout, torch.float32, device)
    (activations if where == "activations" else gradients)[1, 3, 2, 5] = value
    result = ops.cam_pool(activations, gradients, scheme, eps=1e-6)
    expected = ops.cam_pool_reference(activations, gradients, scheme, eps=1e-6)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.isinf(), expected.isinf())
    assert not (torch.isfinite(expected[1]).all())
    assert torch.isfinite(result[[0, 2]]).all()


def test_matches_the_formulas_of_pytorch_grad_cam_with_its_constants(device):
    activations, gradients = pair((4, 256, 7, 7), "contiguous", torch.float32, device)
    for scheme, eps in (("grad-cam++", 1e-6), ("xgrad-cam", 1e-7)):
        agree(
            ops.cam_pool(activations, gradients, scheme, eps=eps).double(),
            plain(activations.double(), gradients.double(), scheme, eps),
            1e-4,
        )


def test_a_division_by_zero_gives_a_weight_of_zero(device):
    activations = torch.zeros(1, 2, 2, 2, device=device)
    activations[0, 1] = 1.0
    gradients = torch.full((1, 2, 2, 2), -0.5, device=device)
    gradients[0, 1] = 0.25
    assert ops.cam_pool(activations, gradients, "xgrad-cam").eq(0.25).all()  # the channel of zeros adds nothing
    # 2 + S g is 2 - 4 * 0.5 = 0 in a channel of ones with g = -1/2: its weight is 0, not NaN.
    assert ops.cam_pool(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), -0.5), "grad-cam++").eq(0).all()


def test_gradients_too_small_to_square_still_count(device):
    activations, gradients = pair((1, 8, 7, 7), "contiguous", torch.float32, device)
    # grad-cam++ without eps depends on tiny gradients linearly: g / (2 + S g) = g / 2.
    result = ops.cam_pool(activations, gradients.abs() * 1e-25, "grad-cam++") * 1e25
    agree(result, (gradients.abs().sum((2, 3), keepdim=True) / 2 * activations).sum(1), 1e-5)


def test_expanded_gradients_equal_materialised_ones(device):
    activations, gradients = pair((3, 64, 7, 7), "expanded", torch.float32, device)
    for scheme in ops.SCHEMES:
        agree(
            ops.cam_pool(activations, gradients, scheme, eps=1e-6),
            ops.cam_pool(activations, gradients.contiguous(), scheme, eps=1e-6),
            1e-4,
        )


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_instruction_set_gives_the_definition(capability):
    """The kernels for machines older than this one, chosen as torch's own are, by ATEN_CPU_CAPABILITY."""
    code = """
import torch
from whylight import ops
torch.manual_seed(0)
for shape in ((2, 67, 7, 7), (2, 5, 3, 3), (1, 33, 14, 15), (2, 3, 1, 1)):
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            a = torch.rand(shape, dtype=dtype).contiguous(memory_format=layout)
            g = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
            for scheme in ops.SCHEMES:
                for eps in (0.0, 1e-3):
                    g_of_scheme = g.abs() if scheme == "grad-cam++" else g
                    actual = ops.cam_pool(a, g_of_scheme, scheme, eps=eps)
                    expected = ops.cam_pool_reference(a.double(), g_of_scheme.double(), scheme, eps=eps)
                    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1)
                    assert error <= tolerance, (shape, layout, dtype, scheme, eps, error)
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BAD = [
    ({"activations": torch.zeros(2, 3)}, "1 to 3 spatial dimensions, got 2-D"),
    ({"activations": torch.zeros(2, 4, 7, 7)}, "must agree with activations"),
    ({"gradients": torch.zeros(2, 3, 7)}, "must agree with activations"),
    ({"gradients": torch.zeros(3, 3, 7, 7)}, "3 targets for 2 inputs need rows"),
    ({"activations": torch.zeros(2, 3, 7, 7, dtype=torch.int32)}, "activations must be float16"),
    ({"gradients": torch.zeros(2, 3, 7, 7, dtype=torch.complex64)}, "gradients must be float16"),
    ({"rows": [0]}, "one entry per target: 1 for 2"),
    ({"rows": [0, 2]}, "rows must be from 0 to 1"),
    ({"rows": [-1, 0]}, "rows must be from 0 to 1"),
    ({"rows": [1, 0]}, "rows must not decrease"),
]


@pytest.mark.parametrize("implementation", [ops.cam_pool, ops.cam_pool_reference])
@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_says_what_is_wrong(wrong, message, implementation):
    arguments = {"activations": torch.zeros(2, 3, 7, 7), "gradients": torch.zeros(2, 3, 7, 7), "rows": None, **wrong}
    with pytest.raises(RuntimeError, match=message):
        implementation(arguments["activations"], arguments["gradients"], "grad-cam", arguments["rows"])


@pytest.mark.parametrize("implementation", [ops.cam_pool, ops.cam_pool_reference])
def test_names_the_schemes_that_there_are(implementation):
    with pytest.raises(ValueError, match=r"unknown scheme 'score-cam'; known: grad-cam, grad-cam\+\+"):
        implementation(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), "score-cam")
