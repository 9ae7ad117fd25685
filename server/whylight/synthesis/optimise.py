"""The loop that makes images: look, judge, step; knows no method, and neither progress bars nor pictures' formats.

On a CPU a step takes long enough to be in somebody's way, so it is done in passes, between which others may have the
processor. While they do, and until it is known whether they do, a pass has few images. That changes no bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from whylight.method import Pause
from whylight.subject.cancel import CancelToken
from whylight.subject.subject import Subject
from whylight.synthesis.operators import Operator
from whylight.synthesis.parametrisation import Parametrisation
from whylight.synthesis.robustness import Robustness
from whylight.synthesis.term import Sight, Term

Optimiser = Literal["adam", "sgd", "normalised"]
"""Adam; plain gradient descent; steps of the gradient divided by each image's own root mean square (DeepDream)."""


ALONE_BYTES = 512 * 2**20
"""Memory that a pass of several images takes on a CPU: with more it is no faster, and somebody may come meanwhile."""

COMPANY_BYTES = 32 * 2**20
"""The same while others use the pauses."""

COMPANY_SECONDS = 0.001
"""A pause that was longer than this was used by somebody."""

ALONE_AFTER = 1.0
"""Seconds after which somebody who was here is taken to have left."""


@dataclass(frozen=True)
class Step:
    """What one step was: its number from 1, the terms' values `[B]` before it, the images behind it.

    `stopped` `[B]` says which images are finished and do not change any more.
    """

    number: int
    total: int
    losses: Mapping[str, Tensor]
    images: Tensor
    stopped: Tensor


def optimise(
    subject: Subject,
    held: Parametrisation,
    terms: Sequence[Term],
    *,
    steps: int,
    learning_rate: float,
    optimiser: Optimiser = "adam",
    robustness: Robustness | None = None,
    operators: Sequence[Operator] = (),
    generators: Sequence[torch.Generator] = (),
    stop: Callable[[Sight], Tensor] | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Step | Pause]:
    """Make `steps` steps down the weighted sum of `terms`, and yield each, and pauses within them: hand those on.

    Images are `[B, C, H, W]`, 0 black and 1 white; the model sees them through `robustness`, drawn from `generators`
    (one for each image), normalised as its transform says. No image has an influence on another one. `stop` looks at
    what the model saw and says for each image whether it is finished; it then stays as it was seen.

    Raises:
        Cancelled: the work is not wanted any more; asked at every step.
        Unsupported: a term's layer does not run; or there is nothing in an image that a term depends on.
    """
    step_by = _optimiser(optimiser, held, learning_rate)
    stopped = torch.zeros(len(held.parameter), dtype=torch.bool, device=held.parameter.device)
    images = _seen(held)
    passes = _Passes(subject, images)
    for number in range(steps):
        if cancel is not None:
            cancel.check()
        due = [(term, term.factor(number, steps)) for term in terms]
        losses, gradients, finished = yield from _judge(passes, images, due, robustness, generators, stop)
        stopped = stopped | finished
        before = held.parameter.detach().clone()
        held.parameter.grad = _pulled(held, images, gradients, losses)
        step_by()
        changed = [operator for operator in operators if operator.is_due(number)]
        if changed:
            shown = held.images().detach()
            for operator in changed:
                shown = operator.apply(shown, gradients)
            held.replace(shown)
        with torch.no_grad():
            held.parameter[stopped] = before[stopped]
        images = _seen(held)
        yield Step(number + 1, steps, losses, images.detach().clone(), stopped.clone())
        if bool(stopped.all()):
            return


def _seen(held: Parametrisation) -> Tensor:
    """Return the images with their graph: what one step shows, the next one begins with."""
    with torch.enable_grad():
        return held.images()


def _pulled(held: Parametrisation, images: Tensor, gradients: Tensor, losses: dict[str, Tensor]) -> Tensor:
    """Return the gradient at the parameter of the terms and of what holding the images costs; enter that too."""
    price = held.price()
    if price is None:
        return torch.autograd.grad(images, held.parameter, gradients)[0]
    losses["held"] = price.detach()
    return torch.autograd.grad([images, price], held.parameter, [gradients, torch.ones_like(price)])[0]


@dataclass
class _Passes:
    """How many images run at once, and where others may come in between."""

    subject: Subject
    images: Tensor
    _company_until: float = field(default=math.inf, init=False)

    def rows(self) -> int:
        """Return how many images are to run in the next pass."""
        model = self.subject.model
        share = self.images[0, 0].numel() / (model.input_size[0] * model.input_size[1])
        rows = min(self.subject.rows_with_gradients(share), len(self.images))
        if not self._pauses:
            return rows
        bytes_of_one = share * model.findings.bytes_per_row("")
        rows = max(1, min(rows, int(ALONE_BYTES // bytes_of_one)))
        few = max(1, int(COMPANY_BYTES // bytes_of_one))
        # Whether the bits allow it is asked last: a probe of the model finds out, once.
        return few if few < rows and time.monotonic() < self._company_until and model.batch_invariant else rows

    def pause(self) -> Iterator[Pause]:
        """Let others come in, where a pass takes long, and see whether somebody did."""
        if self._pauses:
            left = time.monotonic()
            yield Pause()
            now = time.monotonic()
            if now - left > COMPANY_SECONDS:
                self._company_until = now + ALONE_AFTER
            elif self._company_until == math.inf:
                self._company_until = now

    @property
    def _pauses(self) -> bool:
        return self.subject.device.type == "cpu"


def _judge(
    passes: _Passes,
    images: Tensor,
    terms: Sequence[tuple[Term, float]],
    robustness: Robustness | None,
    generators: Sequence[torch.Generator],
    stop: Callable[[Sight], Tensor] | None,
) -> Generator[Pause, None, tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Return each term's loss `[B]`, the gradient of their weighted sum at the images, and which are finished.

    It pauses between passes, and between the way there and the way back.
    """
    subject = passes.subject
    of_model = [term for term, factor in terms if not term.of_images and (factor or stop)]
    layers = tuple(dict.fromkeys(layer for term in of_model for layer in term.reads_layers))
    output = stop is not None or any(term.reads_output for term in of_model)
    losses: dict[str, Tensor] = {}
    gradients: list[Tensor] = []
    finished: list[Tensor] = []
    done = 0
    while done < len(images):
        if done:
            yield from passes.pause()
        rows = range(done, min(done + passes.rows(), len(images)))
        done = rows.stop
        with torch.enable_grad():
            leaf = images[rows.start : rows.stop].detach().requires_grad_(True)
            seen = leaf if robustness is None else robustness.view(leaf, generators[rows.start : rows.stop])
            inputs = subject.inputs_of(seen)
            found = subject.observe(inputs, layers, output=output)
            sight = Sight(rows, seen, inputs, found.output, found.layers)
            still = Sight(rows, leaf, inputs)
            total = leaf.new_zeros(len(rows))
            for term, factor in terms:
                if factor:
                    loss = term.loss(still if term.of_images else sight)
                    values = losses.setdefault(
                        term.name, torch.zeros(len(images), dtype=loss.dtype, device=loss.device)
                    )
                    values[rows.start : rows.stop] += loss.detach()
                    total = total + factor * loss.to(total.dtype)
        yield from passes.pause()
        gradients.append(torch.autograd.grad(total.sum(), leaf)[0])
        if stop is None:
            finished.append(torch.zeros(len(rows), dtype=torch.bool, device=images.device))
        else:
            with torch.no_grad():
                finished.append(stop(sight))
    return losses, torch.cat(gradients), torch.cat(finished)


def _optimiser(kind: Optimiser, held: Parametrisation, learning_rate: float) -> Callable[[], object]:
    if kind == "adam":
        return torch.optim.Adam([held.parameter], lr=learning_rate).step
    descent = torch.optim.SGD([held.parameter], lr=learning_rate)
    if kind == "sgd":
        return descent.step

    def normalised() -> object:
        gradient = held.parameter.grad
        assert gradient is not None
        for image in gradient:
            image.div_(image.square().mean().sqrt().clamp_min(1e-12))
        return descent.step()

    return normalised
