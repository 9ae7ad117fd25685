"""What the model answers, as a table; explains nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

import whylight


class PredictionsOptions(whylight.PlainOptions):
    """How much of the answer."""

    count: int = Field(5, ge=1, le=1000, description="How many of the highest predictions of each input.")


class Predictions(whylight.Inspection):
    """The model's highest predictions for each input: class, label, score, probability.

    `p = softmax(y)` of the class scores y. Artifact "predictions", a table.

    Its check "entropy": of the first input's probabilities, in bits; 0 is certainty.

    Use it before you ask why: the answer may be another one than you think.

    Avoid it as a measure of how often the model is right: hardly a network is calibrated.
    """

    name = "predictions"
    takes = ("pictures+",)
    looks_at_targets = False
    Options = PredictionsOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: PredictionsOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Ask the model.

        Raises:
            InvalidInput: there is no input. Unsupported: the output is not a vector of class scores.
        """
        if len(task.inputs) == 0:
            raise whylight.InvalidInput("there is no input to answer", field="inputs")
        scores = subject.forward(task.inputs).float()
        if scores.dim() != 2:
            raise whylight.Unsupported(
                f"the model's output {list(scores.shape[1:])} is not a vector of class scores", field="model"
            )
        shares = scores.softmax(1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : options.count]
        rows = []
        for row, best in enumerate(order.tolist()):
            for rank, index in enumerate(best):
                score, share = float(scores[row, index]), float(shares[row, index])
                rows.append((row, rank, index, subject.model.label(index), score, share))
        entropy = -(shares[0] * shares[0].clamp_min(1e-30).log2()).sum()
        columns = ("input", "rank", "class", "label", "score", "probability")
        yield whylight.Inspected((whylight.Table("predictions", columns, tuple(rows)),), {"entropy": float(entropy)})
