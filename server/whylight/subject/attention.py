"""Attention: a transformer's matrices of who looks at whom, taken from runs; knows no method and no architecture.

For the run that is asked, attention is computed step by step, so that its matrices exist at all: the fused kernels of
`F.scaled_dot_product_attention` never write them down. `nn.MultiheadAttention` takes no fast path of its own while
functions are intercepted. Nothing of the model is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whylight.errors import Unsupported
from whylight.subject.aim import OUTPUT, Aim, sources_of
from whylight.subject.backward_rule import BackwardRule, FunctionCall
from whylight.subject.layout import Layout
from whylight.subject.pull_back import cotangents_of, rounds

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.subject.subject import Subject

_SOFTMAX = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax})
_ATTENDING = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward, *_SOFTMAX})

_WITHOUT_GRADIENTS = 2
"""How many times its bytes a matrix takes: it, and what the softmax was taken of."""
_WITH_GRADIENTS = 5
"""Besides these, the copy that the run goes on with, and gradients at both."""


@dataclass(frozen=True)
class AttentionForm:
    """What a model's attention is like: found at load.

    `count` is how many attentions run, `layout` where tokens lie on the picture. The rest of the network reads, behind
    the last attention, the leading tokens `leading_read` (the class token, that of distillation) and, if `grid_read`,
    those of the picture. `row_bytes` is the size of all matrices of one input.
    """

    count: int
    layout: Layout
    leading_read: tuple[int, ...]
    grid_read: bool
    row_bytes: int


@dataclass(frozen=True)
class Attended:
    """The attention of some inputs of a batch, or of some of its targets, with their gradients.

    `numbers` says which inputs, or which targets: K of them, each attention `[K, heads, T, T]`, one for each layer in
    the order in which they run, float32 at least. Rows of the matrices attend, columns are attended to; rows add up to
    1. `gradients` are those of each target, in the same shapes, empty where none were asked for.

    `read` `[K, T]`, adding up to 1, says whose rows what comes behind attention reads: 1 for the class token where the
    model answers from it alone; otherwise the same share for each token that is read, such as class and distillation
    tokens, or all tokens of the picture where those are averaged. For a target that is a neuron, or a part of a dense
    output, these are the tokens on which it depends behind the last attention that matters to it.
    """

    numbers: tuple[int, ...]
    attentions: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    read: Tensor
    form: AttentionForm
    size: tuple[int, int]

    def on_picture(self, tokens: Tensor) -> Tensor:
        """Return one number for each token `[K, T]` as maps `[K, h, w]`, without those of leading tokens.

        Raises:
            Unsupported: for inputs of this size there are not as many tokens as the grid has places.
        """
        return self.form.layout.maps(tokens[:, :, None], self.size)[:, 0]


class FindAttention(BackwardRule):
    """Leaves everything as it is, and finds out whether anything runs that may be attention."""

    def __init__(self) -> None:
        self.found = False

    def call(self, call: FunctionCall) -> Any:
        """Look at the call and leave it."""
        self.found = self.found or call.function in _ATTENDING
        return call.proceed()


class CaptureAttention(BackwardRule):
    """Keeps the attention of one run of `rows` inputs; made for that run alone.

    Attention is `F.scaled_dot_product_attention`, from wherever it is called, and any softmax over the last axis of
    square matrices. Queries that are not the tokens themselves, as of a pooling with one query, are left alone; if
    there are several of them, or windows, `foreign` says so: then the matrices are not those of the whole picture.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.matrices: list[Tensor] = []
        self.foreign = False

    def call(self, call: FunctionCall) -> Any:
        """Take attention apart; leave the rest."""
        if call.function is F.multi_head_attention_forward:
            return call.descend()
        if call.function is F.scaled_dot_product_attention:
            return self._attention(call)
        if call.function in _SOFTMAX:
            return self._softmax(call)
        return call.proceed()

    def of_one_kind(self) -> bool:
        """Whether there are matrices, all of them between the same number of tokens, and none of another kind."""
        return not self.foreign and len({matrix.shape[-1] for matrix in self.matrices}) == 1

    def _softmax(self, call: FunctionCall) -> Any:
        probabilities = call.proceed()
        axis = call.argument(1, "dim")
        if axis is None or probabilities.dim() < 3 or axis % probabilities.dim() != probabilities.dim() - 1:
            return probabilities
        if not self._is_ours(probabilities.shape):
            return probabilities
        return self._kept(probabilities).to(probabilities.dtype, copy=True)

    def _attention(self, call: FunctionCall) -> Any:
        query, key, value = (call.argument(place, name) for place, name in enumerate(("query", "key", "value")))
        if not self._is_ours((*query.shape[:-1], key.shape[-2])):
            return call.proceed()
        if call.argument(7, "enable_gqa", False):
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scale = call.argument(6, "scale")
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores.to(_wide(scores))
        mask = call.argument(3, "attn_mask")
        if call.argument(5, "is_causal", False):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        probabilities = self._kept(scores.softmax(-1)).to(value.dtype, copy=True)
        return F.dropout(probabilities, call.argument(4, "dropout_p", 0.0)) @ value

    def _is_ours(self, shape: tuple[int, ...]) -> bool:
        """Whether probabilities of this shape are between all tokens of each input."""
        if shape[-2] == 1:
            return False
        ours = shape[-2] == shape[-1] and (
            (len(shape) == 4 and shape[0] == self._rows) or (len(shape) == 3 and shape[0] % self._rows == 0)
        )
        self.foreign = self.foreign or not ours
        return ours

    def _kept(self, probabilities: Tensor) -> Tensor:
        """Keep probabilities `[N, heads, T, T]`, or `[N * heads, T, T]`; return them as they came, in float32 at least.

        The first ones become a leaf: nothing before them needs a graph.
        """
        wide = probabilities.to(_wide(probabilities)).view(self._rows, -1, *probabilities.shape[-2:])
        if torch.is_grad_enabled() and not wide.requires_grad:
            wide.requires_grad_(True)
        self.matrices.append(wide)
        return wide.view(probabilities.shape)


def attentions(subject: Subject, batch: Batch) -> Iterator[Attended]:
    """Yield the attention of the inputs; see `Subject.attentions`."""
    form = _form_of(subject)
    for rows in _chunks(subject, batch, form, _WITHOUT_GRADIENTS, gradients_at=None):
        capture = CaptureAttention(rows.stop - rows.start)
        with torch.no_grad():
            subject.model.run(batch.inputs[rows], batch.companions_at(rows), rule=capture)
        numbers = tuple(range(rows.start, rows.stop))
        matrices = _matrices(capture, form)
        yield Attended(numbers, matrices, (), _read(matrices[-1], form), form, _size(batch))


def attention_gradients(subject: Subject, batch: Batch) -> Iterator[Attended]:
    """Yield the attention of targets and its gradients; see `Subject.attention_gradients`."""
    form = _form_of(subject)
    aims = subject.aims(batch)
    layers, latents = sources_of(aims)
    for rows in _chunks(subject, batch, form, _WITH_GRADIENTS, gradients_at=""):
        targets = [target for target, row in enumerate(batch.rows) if rows.start <= row < rows.stop]
        aimed = [(aims[target], batch.rows[target] - rows.start) for target in targets]
        capture = CaptureAttention(rows.stop - rows.start)
        with torch.enable_grad():
            companions = batch.companions_at(rows)
            ran = subject.model.run(batch.inputs[rows], companions, watch=layers, latents=latents, rule=capture)
        matrices = _matrices(capture, form)
        turns = rounds(aimed)
        for turn, places in enumerate(turns):
            batch.cancel.check()
            chosen = [aimed[place] for place in places]
            found = _gradients(ran.sources(), chosen, matrices, retain=turn + 1 < len(turns))
            at = torch.tensor([row for _, row in chosen], device=batch.inputs.device)
            gradients = tuple(gradient[at] for gradient in found)
            attended = tuple(matrix.detach()[at] for matrix in matrices)
            read = _read(attended[-1], form)
            for place, (aim, _) in enumerate(chosen):
                if aim.source != OUTPUT or not subject.model.class_count:
                    read[place] = _read_by(tuple(gradient[place] for gradient in gradients), read[place])
            yield Attended(tuple(targets[place] for place in places), attended, gradients, read, form, _size(batch))


def _gradients(
    sources: dict[str, Tensor], aimed: list[tuple[Aim, int]], matrices: tuple[Tensor, ...], *, retain: bool
) -> list[Tensor]:
    """Return the gradients of aims, one of each row, at all matrices; 0 where the target is read before them."""
    cotangents = cotangents_of(sources, aimed)
    found = torch.autograd.grad(
        [sources[source] for source in cotangents],
        matrices,
        list(cotangents.values()),
        retain_graph=retain,
        allow_unused=True,
    )
    if all(gradient is None for gradient in found):
        raise Unsupported("the target does not depend on attention", reason="TARGET_UNSUPPORTED", field="target")
    pairs = zip(found, matrices, strict=True)
    return [torch.zeros_like(matrix) if gradient is None else gradient for gradient, matrix in pairs]


def _read(matrices: Tensor, form: AttentionForm) -> Tensor:
    """Return how much the model's head reads each token, `[K, T]`, for matrices `[K, heads, T, T]`."""
    shares = matrices.new_zeros((len(matrices), matrices.shape[-1]))
    shares[:, list(form.leading_read)] = 1.0
    if form.grid_read:
        shares[:, form.layout.leading :] = 1.0
    return shares / shares.sum(1, keepdim=True)


def _read_by(gradients: tuple[Tensor, ...], otherwise: Tensor) -> Tensor:
    """Return how much a target reads each token, `[T]`, by its gradients `[heads, T, T]` at the last one that has any.

    `otherwise` if there is none at all.
    """
    for gradient in reversed(gradients):
        rows = gradient.ne(0).any(2).any(0).to(otherwise.dtype)
        if rows.any():
            return rows / rows.sum()
    return otherwise


def _form_of(subject: Subject) -> AttentionForm:
    form = subject.model.attention
    if form is None:
        raise Unsupported(f"the model {subject.model.name!r} has no attention between all tokens of the picture")
    return form


def _matrices(capture: CaptureAttention, form: AttentionForm) -> tuple[Tensor, ...]:
    if not capture.of_one_kind() or len(capture.matrices) != form.count:
        raise Unsupported("for inputs of this size the model's attention has another form", field="inputs")
    return tuple(capture.matrices)


def _chunks(
    subject: Subject, batch: Batch, form: AttentionForm, times: int, gradients_at: str | None
) -> Iterator[slice]:
    """Share the rows out to passes under the memory budget.

    One by one on a CPU, whose products of matrices round by how many rows there are; layers that are linear take
    sequences of tokens one by one anyway, so little is lost.
    """
    model = subject.model
    size = max(1, model.budget // (model.findings.bytes_per_row(gradients_at) + times * form.row_bytes))
    size = 1 if model.device.type == "cpu" else size
    for start in range(0, len(batch.inputs), size):
        batch.cancel.check()
        yield slice(start, min(start + size, len(batch.inputs)))


def _size(batch: Batch) -> tuple[int, int]:
    return batch.inputs.shape[-2], batch.inputs.shape[-1]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype
