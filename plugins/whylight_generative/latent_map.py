"""The codes of a data set as points in the plane; knows no decoder and no class beyond the folders' names."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import whylight

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 16
_IN_LEGEND = 20
_SIDE = 640
_DOTS_PER_INCH = 100


class LatentMapOptions(whylight.PlainOptions):
    """Which pictures, and how their codes come to the plane."""

    data_set: str = Field(min_length=1, max_length=128, description="Name of a data set that the operator has set up.")
    projection: Literal["pca", "t-sne"] = Field(
        "pca", description="The two directions of most variance, or t-SNE, which keeps neighbours (needs scikit-learn)."
    )
    count: int = Field(
        2000, ge=3, le=100_000, description="How many pictures at most, evenly spread over the data set."
    )
    perplexity: float = Field(30.0, gt=1, le=1000, description="Neighbours that t-SNE tries to keep, below `count`.")


class LatentMap(whylight.Inspection):
    """The codes of a data set's pictures in the plane, coloured by the folders that the pictures are in.

    PCA: `(z - mean) · v_1, v_2`, the directions of most variance; or t-SNE of the codes. Artifacts: "codes", the points
    with their labels; "picture", the same drawn; "pictures", a table of which is which.

    Its checks: "unreadable" files; of PCA "explained", the share of the codes' variance in the plane; of t-SNE
    "divergence", what it minimised.

    Use it to see whether an autoencoder tells kinds of pictures apart.

    Avoid it for distances between far clusters of t-SNE, which keeps neighbours only.
    """

    name = "latent-map"
    reference = "van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008; Pearson, 1901 (PCA)"
    needs = frozenset({whylight.Need.LATENTS})
    stochastic = True
    takes = ()
    looks_at_targets = False
    Options = LatentMapOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: LatentMapOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Encode the pictures and project their codes.

        Raises:
            NotFound: there is no such data set. InvalidInput: the perplexity is not below the number of pictures.
            Unsupported: fewer than three pictures can be read; t-SNE, where scikit-learn is not installed.
        """
        if options.projection == "t-sne":
            _check_library()
        data_set = task.data_sets.open(options.data_set)
        spread = np.linspace(0, len(data_set) - 1, min(options.count, len(data_set))).round().astype(int).tolist()
        kept: list[int] = []
        codes: list[Tensor] = []
        for start in range(0, len(spread), _ROWS):
            task.cancel.check()
            rows = spread[start : start + _ROWS]
            read = [(index, data_set.fitted(index, subject.model.transform)) for index in rows]
            pictures = [(index, pixels) for index, pixels in read if pixels is not None]
            kept += [index for index, _ in pictures]
            if pictures:
                codes.append(_codes(subject, [pixels for _, pixels in pictures], task))
            yield whylight.Progress(min(start + _ROWS, len(spread)), len(spread))
        if len(kept) < 3:
            raise whylight.Unsupported(
                f"{len(kept)} of {len(spread)} files of {options.data_set!r} are readable pictures; three are needed",
                field="options.data_set",
            )
        every = np.concatenate([one.double().cpu().numpy() for one in codes])
        checks = {"unreadable": float(len(spread) - len(kept))}
        if options.projection == "pca":
            plane, checks["explained"] = principal_plane(every)
        else:
            plane, checks["divergence"] = _neighbours(every, options.perplexity, task.seed)
        files = [data_set.files[index] for index in kept]
        points = tuple(
            whylight.Point(float(x), float(y), file.label) for (x, y), file in zip(plane, files, strict=True)
        )
        rows = tuple((file.path, file.label, point.x, point.y) for file, point in zip(files, points, strict=True))
        yield whylight.Inspected(
            artifacts=(
                _drawn(plane, [file.label for file in files]),
                whylight.Points("codes", points),
                whylight.Table("pictures", ("picture", "label", "x", "y"), rows),
            ),
            checks=checks,
        )


def principal_plane(codes: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Return codes `[N, L]` in their two directions of most variance, `[N, 2]`, and the share of it that is there.

    Signs are such that the largest loading of each direction is positive. With one latent, the second direction is 0.
    """
    centred = codes - codes.mean(0)
    _, deviations, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(1)
    directions = directions * np.where(directions[np.arange(len(directions)), largest] < 0, -1.0, 1.0)[:, None]
    plane = np.zeros((len(codes), 2))
    plane[:, : len(directions)] = centred @ directions.T
    total = float((deviations**2).sum())
    return plane, float((deviations[:2] ** 2).sum()) / total if total > 0 else 1.0


def _neighbours(codes: npt.NDArray[np.float64], perplexity: float, seed: int) -> tuple[npt.NDArray[np.float64], float]:
    from sklearn.manifold import TSNE

    if perplexity >= len(codes):
        raise whylight.InvalidInput(
            f"a perplexity of {perplexity:g} is not below the {len(codes)} pictures", field="options.perplexity"
        )
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32)
    plane: npt.NDArray[np.float64] = found.fit_transform(codes).astype(np.float64)
    return plane, float(found.kl_divergence_)


def _check_library() -> None:
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError:
        raise whylight.Unsupported(
            "t-SNE needs scikit-learn, which this server has not: pip install 'whylight[generative]', or take 'pca'",
            field="options.projection",
        ) from None


def _codes(subject: whylight.Subject, pictures: list[npt.NDArray[np.uint8]], task: whylight.InspectionTask) -> Tensor:
    import torch

    model = subject.model
    pixels = torch.from_numpy(np.stack(pictures))
    inputs = model.transform.normalise(pixels, dtype=model.dtype, device=subject.device)
    return subject.latents(whylight.Batch(inputs, (), (), task.cancel)).flatten(1)


def _drawn(plane: npt.NDArray[np.float64], labels: list[str]) -> whylight.Picture:
    """Return a scatter plot, one colour for each label, with a legend while there are not too many."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE / _DOTS_PER_INCH, _SIDE / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    names = sorted(set(labels))
    table = colormaps["tab10" if len(names) <= 10 else "turbo"]
    of = np.array([names.index(label) for label in labels])
    for number, name in enumerate(names):
        colour = table(number) if len(names) <= 10 else table(number / (len(names) - 1))
        axes.scatter(plane[of == number, 0], plane[of == number, 1], s=12, color=[colour], label=name or "(no folder)")
    axes.set_aspect("equal", "datalim")
    if 1 < len(names) <= _IN_LEGEND:
        axes.legend(fontsize="small", markerscale=2)
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png")
    return whylight.Picture("picture", file.getvalue(), "image/png", _SIDE, _SIDE)
