"""Hypothesis strategies for the words of the domain: everything that may travel; knows no message."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from whylight import errors, outputs, target
from whylight.artifact import Box, Boxes, Map, Picture, Point, Points, Table
from whylight.explanation import Execution, Explained, Explanation, Prediction

names = st.text(min_size=1, max_size=12)
indices = st.integers(0, 2**31 - 1)
sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
floats = st.floats(width=32, allow_nan=False)
seconds = st.integers(-(10**15), 10**15).map(lambda nanoseconds: nanoseconds / 1e9)
hundredths = st.integers(0, 100).map(lambda value: value / 100)


@st.composite
def regions(draw: st.DrawFn) -> target.Region:
    left, right = sorted(draw(st.lists(hundredths, min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(hundredths, min_size=2, max_size=2, unique=True)))
    return target.Region(draw(indices), left, top, right, bottom)


@st.composite
def detections(draw: st.DrawFn) -> target.Detection:
    box = draw(regions())
    return target.Detection(draw(st.none() | indices), box.left, box.top, box.right, box.bottom)


masks = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5)).filter(np.any)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
embeddings = arrays.arrays(np.float32, st.integers(1, 6), elements=finite).filter(np.any)
references = st.binary(min_size=1, max_size=20) | arrays.arrays(np.float32, (3, 2, 2), elements=floats)
elements = st.one_of(
    st.builds(target.ClassIndex, indices),
    st.builds(target.ClassLabel, names),
    st.builds(target.Rank, indices),
    st.builds(target.OutputIndex, st.lists(indices, max_size=4).map(tuple)),
)
targets = st.one_of(
    elements,
    st.builds(target.Latent, indices),
    st.builds(target.Contrast, elements, elements),
    st.builds(lambda index, mask: target.Region(index, mask=mask), indices, masks),
    detections(),
    st.builds(lambda image, layer: target.Similarity(image, layer=layer), references, st.text(max_size=8)),
    st.builds(
        lambda numbers, layer: target.Similarity(embedding=numbers, layer=layer), embeddings, st.text(max_size=8)
    ),
    st.builds(target.Neuron, names, indices, st.lists(indices, max_size=3).map(tuple)),
    regions(),
)

drawn_on = st.sampled_from([outputs.Canvas.INPUT, outputs.Canvas.ORIGINAL])
specifications = st.one_of(
    st.builds(
        outputs.MapOutput,
        names,
        st.sampled_from(outputs.Canvas),
        st.sampled_from(["float32", "float16", "uint8"]),
        st.booleans(),
    ),
    st.builds(
        outputs.PictureOutput,
        names,
        st.sampled_from(outputs.PictureFormat),
        st.sampled_from(outputs.PictureStyle),
        st.sampled_from(["", "turbo", "bwr"]),
        hundredths,
        drawn_on,
        st.integers(1, 100),
        st.integers(1, 400).map(lambda value: value / 4),
    ),
    st.builds(
        outputs.BoxesOutput,
        names,
        st.integers(1, 99).map(lambda value: value / 100),
        st.integers(1, 100),
        drawn_on,
    ),
    st.builds(outputs.MaskOutput, names, st.integers(1, 99).map(lambda value: value / 100), drawn_on),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
options = st.dictionaries(st.text(), json_values, max_size=4)

tensors = st.sampled_from([np.float32, np.float16, np.uint8]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)

cells = (
    st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)
tables = st.integers(0, 3).flatmap(
    lambda width: st.builds(
        Table,
        names,
        st.lists(st.text(max_size=5), min_size=width, max_size=width).map(tuple),
        st.lists(st.lists(cells, min_size=width, max_size=width).map(tuple), max_size=3).map(tuple),
    )
)

companions = st.dictionaries(
    names,
    st.sampled_from([np.float32, np.int64]).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=8,
)

artifacts = st.one_of(
    tables,
    st.builds(Points, names, st.lists(st.builds(Point, floats, floats, st.text(max_size=5)), max_size=3).map(tuple)),
    st.builds(Map, names, tensors),
    st.builds(
        Picture,
        names,
        st.binary(max_size=20),
        st.sampled_from(["image/png", "image/jpeg", "image/webp"]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(
        Boxes,
        names,
        st.lists(st.builds(Box, floats, floats, floats, floats, floats), max_size=3).map(tuple),
        st.sampled_from(outputs.Canvas),
    ),
)

explanations = st.builds(
    Explanation,
    method=names,
    method_version=names,
    options=options,
    target=targets,
    target_label=st.text(max_size=12),
    target_score=floats,
    map_min=floats,
    map_max=floats,
    artifacts=st.lists(artifacts, max_size=3).map(tuple),
    checks=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=2),
    seed=st.none() | st.integers(0, 2**64 - 1),
    execution=st.builds(
        Execution,
        st.integers(0, 2**32 - 1),
        seconds,
        seconds,
        seconds,
        seconds,
        st.text(max_size=8),
        st.lists(st.text(max_size=8), max_size=2).map(tuple),
    ),
)

explained = st.builds(
    Explained,
    st.lists(st.builds(Prediction, indices, st.text(max_size=8), floats, floats), max_size=3).map(tuple),
    st.lists(explanations, max_size=3).map(tuple),
    sizes,
    sizes,
)

kinds = st.sampled_from(
    [
        errors.InvalidInput,
        errors.NotFound,
        errors.Unsupported,
        errors.Overloaded,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Cancelled,
        errors.MethodFailed,
        errors.InternalError,
        errors.PermissionDenied,
        errors.Unauthenticated,
    ]
)


@st.composite
def failures(draw: st.DrawFn) -> errors.WhylightError:
    kind = draw(kinds)
    reason = draw(st.sampled_from(["", "IMAGE_UNREADABLE", "QUEUE_FULL"])) if kind is not errors.MethodFailed else ""
    return kind(
        draw(st.text()),
        reason=reason,
        violations=draw(st.lists(st.builds(errors.Violation, names, st.text(max_size=8)), max_size=3)),
        retry_after=draw(st.none() | st.integers(0, 10**12).map(lambda nanoseconds: nanoseconds / 1e9)),
        metadata=draw(st.dictionaries(names, st.text(max_size=8), max_size=2)),
    )
