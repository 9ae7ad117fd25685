"""tv_loss: what it computes, for every power, mode, layout, dtype and size, and what its bits do not depend on."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from whylight import ops

pytestmark = pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)

MODES = ["isotropic", "anisotropic"]
BETAS = [1.0, 1.5, 2.0, 2.5, 3.7]
SHAPES = [
    (2, 3, 37, 53),
    (1, 3, 64, 48),
    (3, 1, 17, 16),
    (2, 2, 300, 5),
    (1, 2, 3, 9001),
    (2, 40, 7, 7),
    (2, 3, 1, 1),
    (2, 3, 1, 19),
    (2, 3, 19, 1),
    (1, 1, 2, 2),
    (0, 3, 8, 8),
    (2, 0, 8, 8),
    (2, 3, 0, 8),
    (2, 3, 8, 0),
]
LAYOUTS = ["contiguous", "channels_last", "offset", "cropped", "cropped channels_last", "expanded"]


def picture(shape: tuple[int, ...], layout: str = "contiguous", dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise over whole steps, so that many differences are 0, in a layout."""
    values = (torch.randn(shape, dtype=torch.float64) * 0.3 + torch.randint(0, 2, shape)).mul(8).round().div(8)
    values = torch.where(torch.rand(shape) < 0.5, values, values.round()).to(dtype)
    if "cropped" in layout:
        n, c, h, w = shape
        whole = torch.zeros(n, c, h + 3, w + 5, dtype=dtype)
        whole[:, :, 1 : h + 1, 2 : w + 2] = values
        if "channels_last" in layout:
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole[:, :, 1 : h + 1, 2 : w + 2]
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "offset":
        return torch.cat([values.new_zeros(3), values.flatten()])[3:].view(shape)
    if layout == "expanded":
        return values[:1].expand(shape)
    return values


def agree(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = expected.abs().max().clamp(min=1) if expected.numel() else 1
    torch.testing.assert_close(actual.double() / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("eps", [0.0, 0.01])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 2.5])
def test_equals_its_definition_in_double_precision(beta, mode, shape, layout, eps):
    image = picture(shape, layout)
    expected = ops.tv_loss_with_gradient_reference(image, beta, mode=mode, eps=eps)
    loss, gradient = ops.tv_loss_with_gradient(image, beta, mode=mode, eps=eps)
    agree(loss, expected[0], 1e-12)
    agree(gradient, expected[1], 1e-12)
    assert loss.shape == (shape[0],)
    assert (gradient.shape, gradient.stride()) == (image.shape, expected[1].stride())
    assert torch.equal(ops.tv_loss(image, beta, mode=mode, eps=eps), loss)


@pytest.mark.parametrize("eps", [0.0, 0.01])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_the_twin_s_formula_is_the_derivative_of_the_twin(beta, mode, eps):
    image = picture((2, 3, 13, 11)).requires_grad_()
    upstream = torch.randn(2, dtype=torch.float64)
    (derived,) = torch.autograd.grad(ops.tv_loss_reference(image, beta, mode=mode, eps=eps), image, upstream)
    _, stated = ops.tv_loss_with_gradient_reference(image, beta, mode=mode, eps=eps)
    agree(stated * upstream[:, None, None, None], derived, 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_is_as_close_to_double_precision_as_plain_torch_in_the_same_dtype(beta, mode, layout, dtype, device):
    image = picture((2, 3, 70, 45), layout, dtype).to(device)
    exact = ops.tv_loss_with_gradient_reference(image.double(), beta, mode=mode)
    plain = image.clone().requires_grad_()
    dx = torch.nn.functional.pad(plain.diff(dim=3), (0, 1))
    dy = torch.nn.functional.pad(plain.diff(dim=2), (0, 0, 0, 1))
    squares = [dx.square() + dy.square()] if mode == "isotropic" else [dx.square(), dy.square()]
    safe = [torch.where(s == 0, torch.ones_like(s), s) for s in squares]
    terms = sum(torch.where(s == 0, s, t ** (beta / 2)) for s, t in zip(squares, safe, strict=True))
    loss = terms.sum((1, 2, 3))
    loss.sum().backward()
    ours = ops.tv_loss_with_gradient(image, beta, mode=mode)
    assert ours[0].dtype is torch.float32
    assert ours[1].dtype is dtype
    for actual, theirs, right in zip(ours, (loss, plain.grad), exact, strict=True):
        error, allowed = (actual.double() - right).abs().max(), (theirs.double() - right).abs().max()
        assert error <= 2 * allowed + 1e-6 * right.abs().max()


@pytest.mark.parametrize("beta", [1.25, 1.75, 2.2, 3.0, 6.0])
def test_a_general_power_is_as_exact_as_stated(beta):
    # Images of one row of two pixels: each loss is one power.
    steps = torch.logspace(-11, 11, 20001, dtype=torch.float64).float()
    image = torch.stack([torch.zeros_like(steps), steps], 1)[:, None, None]
    expected = steps.double() ** beta
    known = (expected > 1e-37) & (expected < 1e38) & (steps.double().square() < 1e38)
    loss, gradient = ops.tv_loss_with_gradient(image, beta)
    error = (loss.double() / expected - 1).abs()[known].max()
    assert error < 5e-7  # the power's, and of the roundings around it
    slope = beta * steps.double() ** (beta - 1)
    known &= (slope > 1e-37) & (slope < 1e38)
    assert (gradient[:, 0, 0, 1].double() / slope - 1).abs()[known].max() < 5e-7


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("beta", BETAS)
def test_a_constant_image_has_none_and_a_gradient_of_zero(beta, eps, mode, device):
    for level in (0.0, -3.0, 1e30):
        loss, gradient = ops.tv_loss_with_gradient(
            torch.full((2, 3, 33, 20), level, device=device), beta, mode=mode, eps=eps
        )
        assert torch.equal(loss, torch.zeros_like(loss))
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_a_vertical_step_counts_its_height_once_per_row(beta, mode, device):
    image = torch.zeros(1, 1, 9, 6, device=device)
    image[..., 4:] = 1
    loss, gradient = ops.tv_loss_with_gradient(image, beta, mode=mode)
    assert loss.item() == pytest.approx(9, rel=1e-6)
    expected = torch.zeros_like(image)
    expected[..., 3], expected[..., 4] = -beta, beta
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)
    twice = ops.tv_loss(2 * image, beta, mode=mode)
    assert twice.item() == pytest.approx(9 * 2**beta, rel=1e-6)


def test_values_by_hand(device):
    image = torch.tensor([[[[0.0, 3.0], [4.0, 5.0]]]], device=device)
    # (dx, dy): (3, 4), (-, 2); (1, -), (-, -)
    assert ops.tv_loss(image).item() == 9 + 16 + 4 + 1
    assert ops.tv_loss(image, 1.0).item() == 5 + 2 + 1
    assert ops.tv_loss(image, 1.0, mode="anisotropic").item() == 3 + 4 + 2 + 1
    assert ops.tv_loss(image, 3.0).item() == pytest.approx(125 + 8 + 1, rel=1e-6)
    assert ops.tv_loss(image, 3.0, mode="anisotropic").item() == pytest.approx(27 + 64 + 8 + 1, rel=1e-6)
    gradient = ops.tv_loss_with_gradient(image, 1.0, mode="anisotropic")[1]
    assert gradient.flatten().tolist() == [-2, 0, 0, 2]
    smoothed = ops.tv_loss(image, 1.0, eps=11.0).item()
    assert smoothed == pytest.approx(36**0.5 + 15**0.5 + 12**0.5 - 3 * 11**0.5, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_where_nothing_differs_the_gradient_is_zero_and_nowhere_nan(beta, mode, device):
    image = torch.zeros(1, 1, 12, 12, device=device)
    image[0, 0, 6, 6] = 1
    gradient = ops.tv_loss_with_gradient(image, beta, mode=mode)[1]
    assert gradient.isfinite().all()
    assert (gradient != 0).nonzero()[:, 2:].tolist() == [[5, 6], [6, 5], [6, 6], [6, 7], [7, 6]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_nan_and_infinity_stay_with_their_image(beta, mode, device):
    image = picture((3, 2, 20, 30), dtype=torch.float32).to(device)
    image[1, 1, 4, 5] = float("nan")
    image[2, 0, 19, 29] = float("inf")
    loss, gradient = ops.tv_loss_with_gradient(image, beta, mode=mode)
    assert loss[0].isfinite()
    assert loss[1].isnan()
    assert loss[2] == float("inf")
    assert gradient[0].isfinite().all()
    assert gradient[1, 1, 4, 5].isnan()
    assert gradient[1, 0].isfinite().all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta, mode, layout):
    image = torch.randn(2, 2, 5, 4, dtype=torch.float64)  # no difference is 0, where a difference quotient has no limit
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    assert torch.autograd.gradcheck(lambda x: ops.tv_loss(x, beta, mode=mode), image.requires_grad_())


def test_the_gradient_is_scaled_by_that_of_each_loss(device):
    image = picture((3, 3, 20, 30), dtype=torch.float32).to(device).requires_grad_()
    _, unit = ops.tv_loss_with_gradient(image, 1.5)
    assert not unit.requires_grad
    for upstream in (torch.tensor([1.0, -2.0, 4.0], device=device), torch.ones(1, device=device).expand(3)):
        (gradient,) = torch.autograd.grad(ops.tv_loss(image, 1.5), image, upstream)
        assert torch.equal(gradient, unit * upstream[:, None, None, None])


def test_second_derivatives_are_refused_in_words():
    image = torch.randn(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.tv_loss(image, 3.0).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not offered"):
        gradient.sum().backward()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", BETAS)
def test_bits_depend_on_neither_batch_nor_threads(beta, mode, layout, threads, device):
    images = picture((7, 3, 149, 83), dtype=torch.float32).to(device)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    threads(1)
    alone = [ops.tv_loss_with_gradient(images[n : n + 1], beta, mode=mode) for n in range(7)]
    for count in (1, 2, 3):
        threads(count)
        loss, gradient = ops.tv_loss_with_gradient(images, beta, mode=mode)
        assert torch.equal(loss, torch.cat([a[0] for a in alone]))
        assert torch.equal(gradient, torch.cat([a[1] for a in alone]))
        assert torch.equal(ops.tv_loss(images, beta, mode=mode), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_are_rounded_to_the_nearest(dtype):
    # At beta 2 the gradient of a row of two pixels is twice their difference, up and down: every rounding is met.
    steps = torch.cat([torch.randn(50000) * 10.0**e for e in range(-7, 5)]).to(dtype)
    image = torch.stack([steps, steps.roll(1)], 1)[:, None, None]
    _, gradient = ops.tv_loss_with_gradient(image, 2.0)
    expected = (2 * (image[..., 1].float() - image[..., 0].float())).to(dtype)
    assert torch.equal(gradient[..., 1], expected)
    assert torch.equal(gradient[..., 0], -expected)


def test_what_does_not_fit_is_refused_in_words():
    image = torch.rand(1, 3, 8, 8)
    for native in (ops.tv_loss, ops.tv_loss_reference, ops.tv_loss_with_gradient):
        with pytest.raises(ValueError, match="unknown mode 'both'; known: isotropic, anisotropic"):
            native(image, mode="both")
        for wrong, match in (
            ((image[0],), r"image must be \[N, C, H, W\], got 3-D"),
            ((image.int(),), "image must be float16, bfloat16, float32 or float64"),
            ((image, 0.5), "beta must be from 1 to 1024, got 0.5"),
            ((image, float("nan")), "beta must be from 1 to 1024, got nan"),
            (
                (image[:, :, ::2, ::2],),
                r"contiguous or channels_last, or a part of such a one, got strides \(192, 64, 16, 2\)",
            ),
            ((image.transpose(2, 3),), "contiguous or channels_last, or a part"),
        ):
            with pytest.raises(RuntimeError, match=match):
                native(*wrong)
        for eps in (-1.0, float("inf")):
            with pytest.raises(RuntimeError, match="eps must be finite and not negative"):
                native(image, eps=eps)
    with pytest.raises(RuntimeError, match=r"the gradient of the loss must be \[1\]"):
        torch.ops.whylight.tv_loss_backward(torch.ones(2), image, 2.0, 0.0, True)


# opcheck itself reads .grad of what it has cloned from an input that requires grad.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped", "cropped channels_last"])
def test_torch_finds_nothing_wrong_with_the_operators(layout):
    image = picture((2, 3, 9, 8), layout, torch.float32)
    whylight = torch.ops.whylight
    for beta, eps, isotropic in ((2.0, 0.0, True), (1.5, 0.1, False)):
        torch.library.opcheck(whylight.tv_loss.default, (image.clone().requires_grad_(), beta, eps, isotropic))
        torch.library.opcheck(whylight.tv_loss_raw.default, (image, beta, eps, isotropic))
        torch.library.opcheck(whylight.tv_loss_with_gradient.default, (image, beta, eps, isotropic))
        torch.library.opcheck(whylight.tv_loss_backward.default, (torch.ones(2), image, beta, eps, isotropic))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped channels_last"])
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(layout):
    def run(device):
        image = picture((2, 3, 9, 8), layout, torch.bfloat16).to(device)
        loss = ops.tv_loss(image)
        gradient = torch.ops.whylight.tv_loss_backward(loss, image, 2.0, 0.0, True)
        results = [loss, gradient, *ops.tv_loss_with_gradient(image)]
        return [(tuple(t.shape), t.dtype, t.stride()) for t in results], {t.device.type for t in results}

    real, _ = run("cpu")
    with FakeTensorMode():
        assert run("cpu") == (real, {"cpu"})
        if torch.backends.cuda.is_built():  # without CUDA, torch indexes no fake CUDA tensors
            assert run("cuda") == (real, {"cuda"})


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    def step(image):
        loss = ops.tv_loss(image * 2, 2.5)
        return loss, ops.tv_loss_with_gradient(image, 1.0, mode="anisotropic")[1]

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for count in (2, 3):
        image = torch.randn(count, 3, 9, 8, requires_grad=True)
        actual, expected = compiled(image), step(image)
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)
        gradients = [torch.autograd.grad(loss.sum(), image)[0] for loss, _ in (actual, expected)]
        assert torch.equal(*gradients)


def test_runs_under_inference_mode_and_no_grad():
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    expected = ops.tv_loss(image)
    assert expected.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss = ops.tv_loss(image)
        assert not loss.requires_grad
        assert torch.equal(loss, expected)
