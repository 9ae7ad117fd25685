"""Asks the model about the pictures that targets compare inputs with; knows no method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from whylight.decode import DecodedInput
from whylight.errors import InvalidInput
from whylight.explainer.attribution import batch_of
from whylight.frozen_array import FrozenArray
from whylight.method import Batch
from whylight.target import Similarity

if TYPE_CHECKING:
    from whylight.models import Model


def with_embeddings(model: Model, batch: Batch, inputs: Sequence[DecodedInput]) -> Batch:
    """Put the embedding of each reference in its place, as the model makes it, with the companions of the input.

    Raises:
        InvalidInput: what the model makes of a reference is no direction: zeros, NaN (reason TARGET_INVALID).
    """
    if not any(isinstance(target, Similarity) and target.image is not None for target in batch.targets):
        return batch
    known: dict[tuple[int, object], Similarity] = {}
    targets = list(batch.targets)
    for place, (target, row) in enumerate(zip(batch.targets, batch.rows, strict=True)):
        if isinstance(target, Similarity) and target.image is not None:
            key = (row if batch.companions else 0, target)
            if key not in known:
                reference = batch_of(model, [inputs[row].references[target.image]], [()], batch.cancel)
                known[key] = _embedded(model, reference, target)
            targets[place] = known[key]
    return replace(batch, targets=tuple(targets))


def _embedded(model: Model, reference: Batch, target: Similarity) -> Similarity:
    subject = model.subject(reference.cancel)
    made = subject.activations(reference, target.layer)[target.layer] if target.layer else subject.outputs(reference)
    try:
        return replace(target, image=None, embedding=_frozen(made[0]))
    except InvalidInput as error:
        raise InvalidInput(
            f"the model makes no embedding of the reference: {error.message}", reason="TARGET_INVALID", field="target"
        ) from None


def _frozen(tensor: Tensor) -> FrozenArray:
    return FrozenArray.of(tensor.detach().flatten().cpu().numpy())
