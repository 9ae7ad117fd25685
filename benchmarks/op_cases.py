"""What benchmarks/ops.py measures: of every operator the shapes, contestants, least traffic, goals; times nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import plain_torch as plain
import torch
from torch import Tensor

from whylight import ops

NEVER_SLOWER = 1 / 1.05  # than plain torch and torch.compile, for one image and for 64
GIVEN_UP_ABOVE = 512 << 20  # bytes of inputs and result on a CPU, where such a case takes minutes


@dataclass(frozen=True)
class Goal:
    """`contestant` is to take at least `times` as long as ours."""

    contestant: str
    times: float


@dataclass(frozen=True)
class Case:
    """One measurement: `inputs` makes a set of inputs, which every contestant takes; `traffic` is in bytes."""

    operator: str
    name: str
    inputs: Callable[[], tuple[Tensor, ...]]
    traffic: int  # the least that must be read and written
    contestants: dict[str, Callable[..., object]]  # "ours" and others
    compiled: Callable[..., Tensor]  # what torch.compile is given
    goals: tuple[Goal, ...] = ()
    gradient: bool = False
    result: tuple[tuple[int, ...], torch.dtype] | None = None  # of operators that mostly write


def cases(batches: list[int], device: torch.device) -> Iterator[Case]:
    """Return all cases, in the order in which they are measured."""
    for make in (cam_pool_cases, cam_render_cases, tv_loss_cases, gram_cases):
        for batch in batches:
            yield from make(batch, device)


def _goals(batch: int, device: torch.device, *, cpu: float | None = None, gpu: Goal | None = None) -> tuple[Goal, ...]:
    """Return issue 3's goals: never slower; on a CPU `cpu` times as fast as eager, on a GPU `gpu` for 256 images."""
    goals = [Goal("eager", NEVER_SLOWER if device.type == "cuda" else cpu or NEVER_SLOWER)]
    goals.append(Goal("compile", NEVER_SLOWER))
    if device.type == "cuda" and gpu and batch >= 256:
        goals.append(gpu)
    return tuple(goals)


CAM_SCHEMES: dict[str, tuple[Callable[..., Tensor], dict[str, Callable[..., Tensor]]]] = {
    "grad-cam": (plain.grad_cam, {"bmm": plain.grad_cam_product}),
    "grad-cam++": (plain.grad_cam_plus_plus, {}),
    "xgrad-cam": (plain.xgrad_cam, {}),
    "layer-cam": (plain.layer_cam, {}),
    "hires-cam": (plain.hires_cam, {}),
}


def cam_pool_cases(batch: int, device: torch.device) -> Iterator[Case]:
    """All schemes in float32; other dtypes, layouts and several targets for an input."""
    resnet = (batch, 2048, 7, 7)
    for scheme in CAM_SCHEMES:
        yield _cam_pool(scheme, resnet, device)
    yield _cam_pool("grad-cam", resnet, device, dtype=torch.bfloat16)
    yield _cam_pool("grad-cam++", resnet, device, dtype=torch.bfloat16)
    yield _cam_pool("grad-cam", resnet, device, layout=torch.channels_last)
    yield _cam_pool("grad-cam", (batch, 512, 14, 14), device)
    if batch <= 64:
        yield _targets_of_one_input(batch, 8, device)


def _cam_pool(
    scheme: str,
    shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Case:
    eager, others = CAM_SCHEMES[scheme]
    batch, size = shape[0], torch.Size(shape).numel() * dtype.itemsize

    def inputs() -> tuple[Tensor, ...]:
        both = (torch.randn(shape, device=device).relu(), 0.1 * torch.randn(shape, device=device))
        return tuple(t.to(dtype).to(memory_format=layout) for t in both)

    def ours(activations: Tensor, gradients: Tensor) -> Tensor:
        return ops.cam_pool(activations, gradients, scheme, eps=1e-6)

    kind = _kind(dtype, layout)
    demanding = (scheme, batch, shape[1], kind) == ("grad-cam", 64, 2048, "")
    name = f"{scheme} {_text(shape)}{kind}"
    goals = _goals(batch, device, cpu=4.0 if demanding else None, gpu=Goal("copy", 0.85))
    return Case("cam_pool", name, inputs, 2 * size, {"ours": ours, "eager": eager, **others}, eager, goals)


def _targets_of_one_input(batch: int, targets: int, device: torch.device) -> Case:
    shape, rows = (batch, 2048, 7, 7), [n for n in range(batch) for _ in range(targets)]

    def inputs() -> tuple[Tensor, ...]:
        gradients = 0.1 * torch.randn(batch * targets, *shape[1:], device=device)
        return torch.randn(shape, device=device).relu(), gradients

    def ours(activations: Tensor, gradients: Tensor) -> Tensor:
        return ops.cam_pool(activations, gradients, "grad-cam", rows)

    eager = plain.grad_cam_of_targets
    traffic = 4 * torch.Size(shape).numel() * (1 + targets)
    name = f"grad-cam {_text(shape)}, {targets} targets each"
    return Case("cam_pool", name, inputs, traffic, {"ours": ours, "eager": eager}, eager, _goals(batch, device))


def cam_render_cases(batch: int, device: torch.device) -> Iterator[Case]:
    """Maps of 7 x 7 to 224 x 224: as numbers, as bytes, as pictures over images."""
    scale, colours = ops.Scale(), ops.colour_table("turbo").to(device)

    def maps() -> tuple[Tensor, ...]:
        return (torch.randn(batch, 7, 7, device=device),)

    def maps_and_images() -> tuple[Tensor, ...]:
        return *maps(), torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device=device)

    def overlay(maps: Tensor, images: Tensor) -> Tensor:
        return plain.overlay(maps, images, colours)

    pixels, wrote = batch * 224 * 224, Goal("write", 1 / 1.3)
    for dtype, eager in ((torch.float32, plain.render_float), (torch.uint8, plain.render_uint8)):
        runs: dict[str, Callable[..., object]] = {
            "ours": lambda m, dtype=dtype: ops.cam_render(m, (224, 224), scale, dtype=dtype).values,
            "eager": eager,
        }
        name = f"render {batch}x7x7 to 224x224 {str(dtype)[6:]}"
        goals, result = _goals(batch, device, gpu=wrote), ((batch, 224, 224), dtype)
        yield Case("cam_render", name, maps, pixels * dtype.itemsize, runs, eager, goals, result=result)
    runs = {
        "ours": lambda m, i: ops.cam_overlay(m, (224, 224), scale, colours, images=i, opacity=0.5).values,
        "eager": overlay,
    }
    # What an overlay writes is half of what it must move: the image is read, too.
    goals, result = _goals(batch, device, cpu=4.0, gpu=wrote), ((batch, 224, 224, 3), torch.uint8)
    name = f"overlay {batch}x7x7 on 224x224"
    yield Case("cam_overlay", name, maps_and_images, 6 * pixels, runs, overlay, goals, result=result)


def tv_loss_cases(batch: int, device: torch.device) -> Iterator[Case]:
    """Images of 3 x 224 x 224: the loss, and the loss with its gradient by autograd and in one pass."""
    shape = (batch, 3, 224, 224)
    for beta, dtype in ((1.0, torch.float32), (2.0, torch.float32), (2.5, torch.float32), (2.0, torch.bfloat16)):
        size = torch.Size(shape).numel() * dtype.itemsize
        eager, name = plain.total_variation(beta), f"beta {beta:g} {_text(shape)}{_kind(dtype)}"

        def ours(image: Tensor, beta: float = beta) -> Tensor:
            return ops.tv_loss(image, beta)

        def one_pass(image: Tensor, beta: float = beta) -> tuple[Tensor, Tensor]:
            return ops.tv_loss_with_gradient(image, beta)

        def image(dtype: torch.dtype = dtype, *, gradient: bool = False) -> tuple[Tensor, ...]:
            return (torch.rand(shape, device=device).to(dtype).requires_grad_(gradient),)

        demanded = {2.0: 4.0, 2.5: 2.0}.get(beta) if dtype is torch.float32 else None
        goals = _goals(batch, device, cpu=demanded, gpu=Goal("copy", 0.85))
        yield Case("tv_loss", name, image, size, {"ours": ours, "eager": eager}, eager, goals)
        yield Case(
            "tv_loss",
            f"{name}, with gradient",
            lambda image=image: image(gradient=True),
            2 * size,
            {"ours": plain.with_gradient(ours), "eager": plain.with_gradient(eager), "one pass": one_pass},
            eager,
            _goals(batch, device),
            gradient=True,
        )


def gram_cases(batch: int, device: torch.device) -> Iterator[Case]:
    """Layers of VGG and ResNet: the matrix, the loss, and the loss with its gradient."""
    for layer in ((64, 224, 224), (256, 56, 56), (512, 28, 28), (512, 14, 14), (2048, 7, 7)):
        shape, channels = (batch, *layer), layer[0]
        size, matrices = 4 * torch.Size(shape).numel(), 4 * batch * channels**2
        if device.type == "cpu" and size + matrices > GIVEN_UP_ABOVE:
            continue
        target = ops.gram(torch.randn(1, *layer, device=device), "lucid")[0]

        def features(shape: tuple[int, ...] = shape, *, gradient: bool = False) -> tuple[Tensor, ...]:
            return (torch.randn(shape, device=device).requires_grad_(gradient),)

        def ours(features: Tensor) -> Tensor:
            return ops.gram(features, "lucid")

        def loss(features: Tensor, target: Tensor = target) -> Tensor:
            return ops.gram_loss(features, target, normalisation="lucid")

        def eager_loss(features: Tensor, target: Tensor = target) -> Tensor:
            return plain.gram_loss(features, target)

        goals = _goals(batch, device, gpu=Goal("bmm", NEVER_SLOWER))
        runs: dict[str, Callable[..., object]] = {"ours": ours, "eager": plain.gram, "bmm": plain.product}
        yield Case("gram", f"gram {_text(shape)}", features, size + matrices, runs, plain.gram, goals)
        runs = {"ours": loss, "eager": eager_loss, "bmm": plain.product}
        read = size + 4 * channels**2
        yield Case("gram_loss", f"loss {_text(shape)}", features, read, runs, eager_loss, _goals(batch, device))
        yield Case(
            "gram_loss",
            f"loss {_text(shape)}, with gradient",
            lambda features=features: features(gradient=True),
            size + read,
            {"ours": plain.with_gradient(loss), "eager": plain.with_gradient(eager_loss)},
            eager_loss,
            _goals(batch, device),
            gradient=True,
        )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _kind(dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> str:
    names = [] if dtype is torch.float32 else [str(dtype)[6:]]
    names += [] if layout is torch.contiguous_format else ["channels_last"]
    return "".join(f" {name}" for name in names)
