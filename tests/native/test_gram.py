"""gram and gram_loss: what they compute, for every layout, dtype and size, their gradients, and what they refuse."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from whylight import ops
from whylight.ops.gram import NORMALISATIONS, _products, _times

SHAPES = [
    (2, 64, 7, 7),
    (2, 2049, 2, 3),
    (1, 1, 1, 1),
    (2, 70, 1, 1),
    (2, 1, 13, 17),
    (3, 33, 13, 17),
    (2, 130, 17, 19),  # large enough to be multiplied in blocks; 130 is no multiple of a block or a tile
    (1, 40, 56, 56),
    (2, 31, 5),
    (2, 9, 3, 4, 5),
    (0, 4, 7, 7),
    (2, 0, 7, 7),
    (2, 4, 0, 7),
]
LAYOUTS = ["contiguous", "channels_last", "offset", "sliced", "transposed"]


def features_of(shape: tuple[int, ...], layout: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    values = torch.randn(shape, dtype=torch.float64).to(dtype).to(device)
    if layout == "channels_last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "offset":
        return torch.cat([values.new_zeros(3), values.flatten()])[3:].view(shape)
    if layout == "sliced":
        return torch.cat([values, values], dim=1)[:, : shape[1]]
    if layout == "transposed":
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    return values


def target_of(features: Tensor, *, shared: bool = True) -> Tensor:
    """A target that is not symmetric: nothing may rely on it."""
    images, channels = features.shape[:2]
    shape = (channels, channels) if shared else (images, channels, channels)
    return torch.randn(shape, dtype=torch.float64).to(features.device)


def agree(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = expected.abs().max().clamp(min=1e-30) if expected.numel() else 1
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_definition_in_double_precision(shape, layout, normalisation):
    features = features_of(shape, layout).requires_grad_()
    result = ops.gram(features, normalisation)
    expected = ops.gram_reference(features, normalisation)
    assert result.dtype == torch.float64
    agree(result, expected, 1e-12)
    upstream = torch.randn_like(expected)  # not symmetric
    (gradient,) = torch.autograd.grad(result, features, upstream)
    assert gradient.shape == features.shape
    agree(gradient, torch.autograd.grad(expected, features, upstream)[0], 1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loss_equals_its_definition_in_double_precision(shape, layout, shared):
    features = features_of(shape, layout).requires_grad_()
    weights = torch.rand(shape[0], dtype=torch.float64).requires_grad_()
    target = target_of(features, shared=shared)
    loss = ops.gram_loss(features, target, weights=weights, normalisation="lucid")
    expected = ops.gram_loss_reference(features, target, weights=weights, normalisation="lucid")
    assert loss.shape == (shape[0],)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    with torch.no_grad():  # which is computed otherwise
        alone = ops.gram_loss(features, target, weights=weights, normalisation="lucid")
    torch.testing.assert_close(alone, expected.detach(), rtol=1e-12, atol=0)
    upstream = torch.randn_like(expected)
    actual = torch.autograd.grad(loss, (features, weights), upstream)
    for mine, plain in zip(actual, torch.autograd.grad(expected, (features, weights), upstream), strict=True):
        agree(mine, plain, 1e-12)


def test_gatys_is_the_loss_of_his_paper():
    """E = 1 / (4 N^2 M^2) sum (G - A)^2, with unnormalised G and A, N filters and M positions."""
    features, style = features_of((2, 12, 5, 7), "contiguous"), features_of((2, 12, 5, 7), "contiguous")
    g, a = ops.gram(features, "none"), ops.gram(style, "none")
    paper = (g - a).square().sum((1, 2)) / (4 * 12**2 * 35**2)
    torch.testing.assert_close(ops.gram_loss(features, ops.gram(style)), paper, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:10], ids=str)
def test_a_gram_matrix_is_symmetric_positive_and_blind_to_where(shape, dtype, device):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("the CUDA kernels compute in float32")
    features = features_of(shape, "contiguous", dtype, device)
    result = ops.gram(features, "lucid")
    assert torch.equal(result, result.mT)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert torch.linalg.eigvalsh(result.double()).min() >= -tolerance * result.abs().max()
    moved = features.flatten(2)[:, :, torch.randperm(features.shape[2:].numel())]
    agree(ops.gram(moved, "lucid"), result, tolerance)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 512, 14, 14), (1, 64, 56, 56), (2, 300, 7, 7), (2, 33, 13, 17)], ids=str)
def test_errs_no_more_than_plain_torch_in_the_same_dtype(shape, dtype, layout, device):
    """The rule of FlashAttention's tests: at most twice the error of plain torch, each against double precision."""
    features = features_of(shape, layout, dtype, device).requires_grad_()
    positions = features.shape[2:].numel()
    target = target_of(features).to(dtype)

    def plain(values: Tensor) -> Tensor:
        flat = values.flatten(2)
        return (torch.bmm(flat, flat.mT) / positions - target.to(values.dtype)).square().sum((1, 2))

    exact_features = features.detach().double().requires_grad_()
    exact = ops.gram_loss_reference(exact_features, target, normalisation="lucid")
    (exact_gradient,) = torch.autograd.grad(exact.sum(), exact_features)
    loss = ops.gram_loss(features, target, normalisation="lucid")
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    baseline = plain(features)
    (plain_gradient,) = torch.autograd.grad(baseline.sum(), features)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert gradient.stride()[1:] == features.stride()[1:]

    def error(actual: Tensor, right: Tensor) -> Tensor:
        return (actual.double() - right).abs().max()

    assert error(loss, exact) <= 2 * error(baseline, exact) + 1e-6 * exact.max()
    allowed = 2 * error(plain_gradient, exact_gradient) + 1e-6 * exact_gradient.abs().max()
    assert error(gradient, exact_gradient) <= allowed


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_float16_does_not_overflow(normalisation, device):
    features = features_of((2, 512, 28, 28), "contiguous", torch.float16, device) * 10
    result = ops.gram(features, normalisation)
    assert torch.einsum("ncp,ncp->nc", features.flatten(2).double(), features.flatten(2).double()).max() > 65504
    agree(result.double(), ops.gram_reference(features.double(), normalisation), 1e-5)
    features.requires_grad_()
    loss = ops.gram_loss(features, torch.zeros(512, 512, device=device), normalisation=normalisation)
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad((loss / loss.detach()).sum(), features)
    assert gradient.isfinite().all()


def test_gradients_are_right_once_and_twice():
    for layout in ("contiguous", "channels_last"):
        features = features_of((2, 3, 2, 2), layout).requires_grad_()
        weights = torch.rand(2, dtype=torch.float64).requires_grad_()
        target = target_of(features, shared=False)

        def loss(values: Tensor, weights: Tensor, target: Tensor = target) -> Tensor:
            return ops.gram_loss(values, target, weights=weights, normalisation="lucid")

        torch.autograd.gradcheck(ops.gram, features)
        torch.autograd.gradgradcheck(ops.gram, features)
        torch.autograd.gradcheck(loss, (features, weights))
        torch.autograd.gradgradcheck(loss, (features, weights))


def test_keeps_the_difference_alone_for_the_gradient():
    features = features_of((2, 48, 7, 7), "contiguous", torch.float32).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.gram_loss(features, target_of(features))
    assert sorted(tuple(t.shape) for t in kept if t.data_ptr() != features.data_ptr()) == [(2, 48, 48)]


def test_the_loss_of_its_own_target_is_exactly_zero():
    for shape in [(2, 130, 17, 19), (3, 64, 9, 9)]:
        features = features_of(shape, "contiguous", torch.float32)
        target = ops.gram(features)
        assert torch.equal(ops.gram_loss(features, target), torch.zeros(shape[0]))
        assert torch.equal(ops.gram_loss(features.requires_grad_(), target), torch.zeros(shape[0]))


def test_one_image_of_a_batch_does_not_see_the_others():
    features = features_of((3, 130, 17, 19), "contiguous", torch.float32)
    target = target_of(features)
    together = ops.gram_loss(features, target)
    spoilt = features.clone()
    spoilt[1] = float("nan")
    loss = ops.gram_loss(spoilt, target)
    assert torch.equal(loss[[0, 2]], together[[0, 2]])
    assert loss[1].isnan()
    for n in range(3):
        alone = ops.gram_loss(features[n : n + 1], target)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-6, atol=0)


@pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)
def test_the_pass_after_the_product_has_the_same_bits_for_any_batch_and_number_of_threads(threads):
    products, target = torch.randn(5, 290, 290), torch.randn(290, 290)  # more than one block, and no whole tiles
    results = []
    for count in (1, 2, 3):
        threads(count)
        difference = products.clone()
        results.append((torch.ops.whylight.gram_difference_(difference, target), difference))
    for n in range(5):
        difference = products[n : n + 1].clone()
        results.append((torch.ops.whylight.gram_difference_(difference, target), difference))
        assert torch.equal(results[-1][0], results[0][0][n : n + 1])
        assert torch.equal(difference, results[0][1][n : n + 1])
    for squares, difference in results[1:3]:
        assert torch.equal(squares, results[0][0])
        assert torch.equal(difference, results[0][1])


@pytest.mark.parametrize("shape", [(3, 200, 5, 5), (2, 260, 9, 9)], ids=str)
def test_the_loss_without_a_gradient_has_the_same_bits_in_any_batch(shape, threads):
    features = features_of(shape, "contiguous", torch.float32)
    targets = target_of(features, shared=False).float()
    threads(1)
    together = ops.gram_loss(features, targets)
    for n in range(shape[0]):
        assert torch.equal(ops.gram_loss(features[n : n + 1], targets[n]), together[n : n + 1])


@pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)
def test_what_lies_below_the_diagonal_is_not_read():
    products = torch.randn(2, 70, 70)
    spoilt = torch.where(torch.ones(70, 70, dtype=torch.bool).triu(), products, torch.nan)
    torch.ops.whylight.gram_mirror_(spoilt)
    assert torch.equal(spoilt, products.triu() + products.triu(1).mT)


@pytest.mark.parametrize("operator", ["gram_mirror_", "gram_difference_"])
def test_the_pass_after_the_product_refuses_what_it_cannot_take(operator):
    if not ops.native_status().available:
        pytest.skip(ops.native_status().description)
    call = getattr(torch.ops.whylight, operator)
    more = () if operator == "gram_mirror_" else (torch.zeros(3, 3),)
    with pytest.raises(RuntimeError, match=r"gram must be \[N, C, C\], got \[2, 3, 4\]"):
        call(torch.zeros(2, 3, 4), *more)
    with pytest.raises(RuntimeError, match="contiguous"):
        call(torch.zeros(2, 3, 3).mT, *more)
    with pytest.raises(RuntimeError, match="must be float32 or float64"):
        call(torch.zeros(2, 3, 3, dtype=torch.float16), *more)
    if more:
        with pytest.raises(RuntimeError, match=r"target \[4, 4\] must be"):
            call(torch.zeros(2, 3, 3), torch.zeros(4, 4))
        with pytest.raises(RuntimeError, match="the dtype of gram"):
            call(torch.zeros(2, 3, 3), torch.zeros(3, 3, dtype=torch.float64))


def test_refuses_what_does_not_fit():
    features = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="unknown normalisation 'l2'; known: gatys, lucid, none"):
        ops.gram(features, "l2")
    with pytest.raises(RuntimeError, match="1 to 3 spatial dimensions, got 2-D"):
        ops.gram(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match=r"must be float16.*got torch.int64"):
        ops.gram(features.long())
    with pytest.raises(RuntimeError, match=r"target \[4, 4\] must be \[C, C\] or \[N, C, C\]"):
        ops.gram_loss(features, torch.zeros(4, 4))
    with pytest.raises(RuntimeError, match="floating type"):
        ops.gram_loss(features, torch.zeros(3, 3, dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"weights \[3\] must be \[N\]"):
        ops.gram_loss(features, torch.zeros(3, 3), weights=torch.ones(3))
    with pytest.raises(RuntimeError, match="target is on meta"):
        ops.gram_loss(features, torch.zeros(3, 3, device="meta"))
    with pytest.raises(ValueError, match="target must not require a gradient"):
        ops.gram_loss(features, torch.zeros(3, 3, requires_grad=True))


# opcheck looks at the gradient of its own copies, which are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype, device):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("the CUDA kernels compute in float32")
    features = features_of((2, 5, 4, 3), "channels_last", dtype, device).requires_grad_()
    target = target_of(features).to(torch.float64 if dtype == torch.float64 else torch.float32)
    torch.library.opcheck(torch.ops.whylight.gram.default, (features, "gatys"))
    torch.library.opcheck(torch.ops.whylight.gram_loss.default, (features, target, "lucid"))
    torch.library.opcheck(torch.ops.whylight.gram_distance.default, (features.detach(), target, "lucid"))


def test_compiles_whole():
    features = features_of((2, 9, 4, 3), "contiguous", torch.float32).requires_grad_()
    target, weights = target_of(features), torch.tensor([0.5, 2.0])

    def total(values: Tensor) -> Tensor:
        return ops.gram_loss(values, target, weights=weights).sum() + ops.gram(values, "lucid").square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(features), features)
    torch.testing.assert_close(gradient, torch.autograd.grad(total(features), features)[0])


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch without CUDA indexes no fake CUDA tensors")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_shapes_and_dtypes_on_a_gpu_without_one(dtype):
    with FakeTensorMode():
        features = torch.empty(2, 8, 5, 5, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        loss = ops.gram_loss(features, torch.empty(8, 8, device="cuda", dtype=dtype))
        result = ops.gram(features)
        gradient = _times(torch.empty(2, 8, 8, device="cuda"), features, torch.empty(2, device="cuda"))
        products = _products(features, 0.5)
    for tensor, shape in ((loss, (2,)), (result, (2, 8, 8)), (products, (2, 8, 8))):
        assert tuple(tensor.shape) == shape
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cuda"
    assert gradient.dtype == dtype
    assert gradient.stride() == features.stride()
