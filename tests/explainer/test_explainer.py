"""Batches: the same answer alone and together, and only the guilty one fails."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import whylight
from whylight import BoxesOutput, Canvas, ClassIndex, ClassLabel, MapOutput, Maps, Neuron, OutputIndex, Rank
from whylight.errors import Cancelled, InvalidInput, MethodFailed, NotFound, Overloaded, Unsupported
from whylight.explainer import Explainer
from whylight.explanation import Explained
from whylight.limits import Limits
from whylight.models import Transform, wrap_module
from whylight.subject import CancelToken

RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (60, 90, 3), np.uint8) for _ in range(4)]


class Sum(whylight.Attribution):
    """Sum of the input's channels; the sizes of its batches are kept for the test."""

    name = "sum"

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def attribute(self, subject, batch, options):
        self.sizes.append((len(batch.inputs), len(batch.targets)))
        self.trouble(batch)
        return batch.inputs.sum(1)[list(batch.rows)]

    def trouble(self, batch) -> None:
        pass


class HatesBlack(Sum):
    """Fails for black inputs."""

    def trouble(self, batch) -> None:
        if any(not one.any() for one in batch.inputs):
            raise ZeroDivisionError("/root/secret")


def poor(most_inputs: int, most_targets: int, error: Exception | None = None) -> Sum:
    class Poor(Sum):
        def trouble(self, batch) -> None:
            if len(batch.inputs) > most_inputs or len(batch.targets) > most_targets:
                raise error or torch.OutOfMemoryError("CUDA out of memory")

    return Poor()


def told(result) -> tuple[type, str, str]:
    return type(result), result.reason, result.violations[0].field if result.violations else ""


@pytest.fixture
def cams(model, cam):
    return Explainer({"looking": model}, cam)


def test_a_batch_gives_what_each_input_gives_alone(cams, explain_all):
    outputs = (MapOutput(), whylight.PictureOutput(canvas=Canvas.ORIGINAL), BoxesOutput())
    plan = cams.plan("looking", "grad-cam", {}, outputs, 3)
    targets = [(ClassIndex(0), ClassIndex(2)), (), (ClassLabel("lower right"),), (Rank(1), OutputIndex((1,)))]
    together = explain_all(cams, plan, PIXELS, targets)
    for n, result in enumerate(together):
        (alone,) = explain_all(cams, plan, PIXELS[n : n + 1], targets[n : n + 1])
        assert result.predictions == alone.predictions
        assert len(result.explanations) == max(1, len(targets[n]))
        for a, b in zip(result.explanations, alone.explanations, strict=True):
            assert (a.target, a.target_label, a.target_score) == (b.target, b.target_label, b.target_score)
            assert (a.map_min, a.map_max) == (b.map_min, b.map_max)
            assert np.array_equal(a.map, b.map)
            assert a.picture == b.picture
            assert a.boxes == b.boxes
        assert result.explanation.execution.batch_size == 4
        assert result.explanation.execution.device == "cpu"
    assert together[0].explanations[1].target_label == "all"
    assert together[2].explanation.target == ClassIndex(1)
    assert together[3].explanations[0].target == ClassIndex(together[3].predictions[1].class_index)


def test_a_large_original_is_decoded_again_when_it_is_drawn_on(cams, explain_all, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(file, "PNG")
    plan = cams.plan("looking", "grad-cam", {}, (whylight.PictureOutput(canvas=Canvas.ORIGINAL),))
    (kept,) = explain_all(cams, plan, [file.getvalue()])
    monkeypatch.setattr("whylight.decode.KEPT_PIXELS", 60 * 90 - 1)
    assert cams.decode(plan, file.getvalue()).original is None
    (again,) = explain_all(cams, plan, [file.getvalue()])
    assert again.explanation.picture == kept.explanation.picture


def test_predictions_are_the_softmax_of_the_scores_best_first(cams, model, explain_all):
    plan = cams.plan("looking", "grad-cam", {}, (), 2)
    (result,) = explain_all(cams, plan, PIXELS[:1])
    pixels = torch.from_numpy(model.transform.fit(_picture(PIXELS[0])).pixels)[None]
    with torch.no_grad():
        scores = model.module(model.transform.normalise(pixels))[0]
    order = scores.argsort(descending=True)[:2]
    assert [p.class_index for p in result.predictions] == order.tolist()
    assert [p.score for p in result.predictions] == pytest.approx(scores[order].tolist(), rel=1e-6)
    assert [p.probability for p in result.predictions] == pytest.approx(scores.softmax(0)[order].tolist(), rel=1e-6)
    assert result.predictions[0].label == "all"
    many = cams.plan("looking", "grad-cam", {}, (), 99)
    none = cams.plan("looking", "grad-cam", {}, (), 0)
    assert len(explain_all(cams, many, PIXELS[:1])[0].predictions) == 3
    assert explain_all(cams, none, PIXELS[:1])[0].predictions == ()


def _picture(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def test_a_dense_output_has_no_predictions(explainer_of, explain_all):
    dense = wrap_module(nn.Conv2d(3, 2, 1), name="dense", input_size=(8, 8))
    explainer = explainer_of(Sum(), dense)
    plan = explainer.plan("dense", "sum", {})
    result, refused = explain_all(explainer, plan, PIXELS[:2], [(OutputIndex((1, 0, 0)),), (Rank(0),)])
    assert result.predictions == ()
    assert told(refused) == (Unsupported, "TARGET_UNSUPPORTED", "input.targets[0]")


def test_inputs_of_different_shapes_go_in_batches_of_their_own(explainer_of, explain_all):
    method = Sum()
    explainer = explainer_of(method)
    plan = explainer.plan("looking", "sum", {}, (MapOutput(), whylight.PictureOutput()))
    small = np.full((3, 32, 32), 0.5, np.float32)
    flat = torch.nn.Conv2d(3, 1, 1)
    served = wrap_module(nn.Sequential(flat, nn.AdaptiveAvgPool2d(1), nn.Flatten()), name="any", input_size=(32, 32))
    explainer = explainer_of(method, served)
    plan = explainer.plan("any", "sum", {}, (MapOutput(), whylight.PictureOutput()))
    inputs = [PIXELS[0], np.ones((3, 9, 7), np.float32), small, np.zeros((3, 9, 7), np.float32), PIXELS[1]]
    results = explain_all(explainer, plan, inputs)
    assert sorted(method.sizes) == [(2, 2), (3, 3)]
    assert [result.input_size for result in results] == [(32, 32), (7, 9), (32, 32), (7, 9), (32, 32)]
    # pictures and arrays side by side in one batch, each in its place
    assert np.array_equal(results[2].explanation.map, np.full((32, 32), 1.5, np.float32))
    assert np.array_equal(results[1].explanation.map, np.full((9, 7), 3.0, np.float32))
    for n in (0, 4):
        (alone,) = explain_all(explainer, plan, inputs[n : n + 1])
        assert np.array_equal(results[n].explanation.map, alone.explanation.map)
        assert results[n].explanation.picture == alone.explanation.picture


def test_an_array_that_the_model_does_not_take_is_the_callers_fault(explain_all, cam):
    fixed = wrap_module(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 8 * 8, 2)), name="fixed", input_size=(8, 8)
    )
    explainer = Explainer({"fixed": fixed}, cam)
    plan = explainer.plan("fixed", "grad-cam", {"layer": "0"})
    good, bad = explain_all(explainer, plan, [np.zeros((3, 8, 8), np.float32), np.zeros((3, 9, 8), np.float32)])
    assert isinstance(good, Explained)
    assert told(bad) == (InvalidInput, "TENSOR_INVALID", "input.tensor.shape")
    assert "[3, 9, 8]" in bad.message


@pytest.mark.parametrize("guilty", [0, 2])
def test_only_the_guilty_input_fails(explainer_of, explain_all, guilty, caplog):
    method = HatesBlack()
    explainer = explainer_of(method)
    plan = explainer.plan("looking", "sum", {})
    inputs = [np.zeros_like(PIXELS[0]) if n == guilty else PIXELS[n] for n in range(4)]
    results = explain_all(explainer, plan, inputs)
    assert method.sizes == [(4, 4), (1, 1), (1, 1), (1, 1), (1, 1)]
    assert [isinstance(result, Explained) for result in results] == [n != guilty for n in range(4)]
    failed = results[guilty]
    assert (type(failed), failed.reason) == (MethodFailed, "METHOD_FAILED")
    assert failed.metadata == {"method": "sum", "plugin": "test"}
    assert "secret" not in failed.message
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda n: torch.zeros(n + 1, 4, 4), "not maps"),
        (lambda n: torch.zeros(n, 1, 4, 4), "not maps"),
        (lambda n: torch.zeros(n, 0, 4), "not maps"),
        (lambda n: torch.zeros(n, 4, 4, dtype=torch.int64), "not maps"),
        (lambda n: np.zeros((n, 4, 4), np.float32), "ndarray"),
        (lambda n: None, "NoneType"),
        (lambda n: torch.full((n, 4, 4), torch.nan), "NaN"),
        (lambda n: Maps(torch.zeros(n, 4, 4), {"residual": torch.zeros(n, 2)}), "residual"),
        (lambda n: Maps(torch.zeros(n, 4, 4), {"residual": [0.0]}), "residual"),
    ],
)
def test_a_method_that_gives_what_it_must_not_is_at_fault(explainer_of, explain_all, given, said):
    class Odd(Sum):
        def attribute(self, subject, batch, options):
            return given(len(batch.targets))

    explainer = explainer_of(Odd())
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), PIXELS[:2])
    for result in results:
        assert (type(result), result.reason) == (MethodFailed, "METHOD_FAILED")
        assert said in result.message


def test_a_nan_harms_no_batch_mate(explainer_of, explain_all):
    class Odd(Sum):
        def attribute(self, subject, batch, options):
            maps = super().attribute(subject, batch, options)
            return torch.where(maps == 0, torch.nan, maps)

    explainer = explainer_of(Odd())
    whites = np.full_like(PIXELS[0], 255)
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), [whites, np.zeros_like(whites), whites])
    assert [type(result) for result in results] == [Explained, MethodFailed, Explained]


def test_an_error_that_a_method_means_passes_as_it_is(explainer_of, explain_all):
    class Choosy(Sum):
        def trouble(self, batch) -> None:
            if any(not one.any() for one in batch.inputs):
                raise Unsupported("black is not a colour", reason="TOO_DARK", field="options.layer")

    explainer = explainer_of(Choosy())
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), [PIXELS[0], np.zeros_like(PIXELS[0])])
    assert isinstance(results[0], Explained)
    assert told(results[1]) == (Unsupported, "TOO_DARK", "methods[0].options.layer")


def test_checks_and_half_precision_maps_come_through(explainer_of, explain_all):
    class Checked(Sum):
        def attribute(self, subject, batch, options):
            maps = torch.arange(len(batch.targets) * 4.0).reshape(-1, 2, 2).half().requires_grad_()
            return Maps(maps, {"residual": torch.arange(len(batch.targets))})

    explainer = explainer_of(Checked())
    plan = explainer.plan("looking", "sum", {})
    first, second = explain_all(explainer, plan, PIXELS[:2], [(ClassIndex(0), ClassIndex(1)), (ClassIndex(2),)])
    assert [why.checks for why in (*first.explanations, *second.explanations)] == [{"residual": n} for n in (0, 1, 2)]
    assert second.explanation.map.tolist() == [[8, 9], [10, 11]]
    assert second.explanation.map.dtype == np.float32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to"),
    ],
)
def test_when_memory_runs_out_the_batch_is_halved(explainer_of, explain_all, error):
    method = poor(2, 2, error)
    explainer = explainer_of(method)
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), PIXELS)
    assert all(isinstance(result, Explained) for result in results)
    assert method.sizes == [(4, 4), (2, 2), (2, 2)]
    assert [result.explanation.execution.batch_size for result in results] == [2] * 4


def test_in_the_end_the_targets_of_one_input_are_halved(explainer_of, explain_all):
    method = poor(1, 2)
    explainer = explainer_of(method)
    plan = explainer.plan("looking", "sum", {})
    targets = [tuple(map(ClassIndex, (2, 0, 1, 0, 2))), (ClassIndex(1),)]
    results = explain_all(explainer, plan, PIXELS[:2], targets)
    for result, wanted in zip(results, targets, strict=True):
        assert tuple(why.target for why in result.explanations) == wanted
    assert method.sizes == [(2, 6), (1, 5), (1, 3), (1, 2), (1, 1), (1, 2), (1, 1)]


def test_what_fits_nowhere_is_told_and_the_rest_goes_on(explainer_of, explain_all):
    class Poor(Sum):
        def trouble(self, batch) -> None:
            if any(not one.any() for one in batch.inputs):
                raise torch.OutOfMemoryError("CUDA out of memory")

    explainer = explainer_of(Poor())
    inputs = [PIXELS[0], np.zeros_like(PIXELS[0]), PIXELS[1]]
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), inputs)
    assert [type(result) for result in results] == [Explained, Overloaded, Explained]
    assert results[1].reason == "OUT_OF_MEMORY"


def test_a_target_that_is_wrong_for_one_input_fails_that_input(cams, explain_all):
    plan = cams.plan("looking", "grad-cam", {})
    targets = [
        (ClassIndex(0),),
        (ClassIndex(1), ClassIndex(3)),
        (ClassLabel("upper right"),),
        (Rank(3),),
        (ClassIndex(-1),),
        (OutputIndex((0, 0)),),
        (Neuron("nowhere", 0),),
        (Neuron("maps", 3),),
        tuple(ClassIndex(0) for _ in range(65)),
        (Neuron("maps", 0),),
    ]
    results = explain_all(cams, plan, [PIXELS[0]] * len(targets), targets)
    assert [isinstance(result, Explained) for result in results] == [True] + [False] * 8 + [False]
    assert told(results[1]) == (InvalidInput, "TARGET_INVALID", "input.targets[1]")
    assert told(results[2]) == (NotFound, "LABEL_NOT_FOUND", "input.targets[0]")
    assert told(results[3]) == (InvalidInput, "TARGET_INVALID", "input.targets[0]")
    assert told(results[4]) == (InvalidInput, "TARGET_INVALID", "input.targets[0]")
    assert told(results[5]) == (InvalidInput, "TARGET_INVALID", "input.targets[0]")
    assert told(results[6]) == (NotFound, "LAYER_NOT_FOUND", "input.targets[0].neuron.layer")
    assert told(results[7]) == (InvalidInput, "TARGET_INVALID", "input.targets[0]")
    assert told(results[8]) == (InvalidInput, "TOO_MANY_TARGETS", "input.targets")
    # Right in itself, but in front of the layer that is explained: only the run can tell.
    assert told(results[9])[:2] == (Unsupported, "TARGET_UNSUPPORTED")
    assert told(results[9])[2] == "input.targets[0]"


def test_wrong_targets_never_enter_a_batch(explainer_of, explain_all):
    method = Sum()
    explainer = explainer_of(method)
    plan = explainer.plan("looking", "sum", {})
    explain_all(explainer, plan, PIXELS, [(), (ClassIndex(99),), (), ()])
    assert method.sizes == [(3, 3)]


def test_an_input_that_is_taken_back_is_skipped(explainer_of, explain_all):
    method = Sum()
    explainer = explainer_of(method)
    plan = explainer.plan("looking", "sum", {})
    tokens = [CancelToken() for _ in PIXELS]
    tokens[1].cancel()
    results = explain_all(explainer, plan, PIXELS, cancels=tokens)
    assert [type(result) for result in results] == [Explained, Cancelled, Explained, Explained]
    assert method.sizes == [(3, 3)]
    for token in tokens:
        token.cancel()
    results = explain_all(explainer, plan, PIXELS, cancels=tokens)
    assert all(isinstance(result, Cancelled) for result in results)
    assert len(method.sizes) == 1


def test_a_method_stops_when_every_caller_has_gone_and_not_before(explainer_of, explain_all):
    tokens = [CancelToken(), CancelToken()]
    steps = []

    class Slow(Sum):
        def attribute(self, subject, batch, options):
            for token in tokens:
                batch.cancel.check()
                steps.append(token)
                token.cancel()
            batch.cancel.check()
            raise AssertionError("goes on for nobody")

    explainer = explainer_of(Slow())
    results = explain_all(explainer, explainer.plan("looking", "sum", {}), PIXELS[:2], cancels=tokens)
    assert [type(result) for result in results] == [Cancelled, Cancelled]
    assert len(steps) == 2


def test_noise_is_the_same_alone_and_in_a_batch(explainer_of, explain_all):
    class Noise(Sum):
        stochastic = True

        def attribute(self, subject, batch, options):
            return torch.stack([torch.rand(4, 4, generator=batch.generator(row)) for row in batch.rows])

    explainer = explainer_of(Noise())
    plan = explainer.plan("looking", "sum", {})
    together = explain_all(explainer, plan, PIXELS, seeds=[7, 8, 7, 2**64 - 1])
    (alone,) = explain_all(explainer, plan, PIXELS[1:2], seeds=[8])
    maps = [result.explanation.map for result in together]
    assert np.array_equal(maps[1], alone.explanation.map)
    assert np.array_equal(maps[0], maps[2])
    assert not np.array_equal(maps[0], maps[1])
    assert [result.explanation.seed for result in together] == [7, 8, 7, 2**64 - 1]


def test_an_answer_that_is_too_large_is_refused_before_it_is_computed(model, cam, explain_all):
    explainer = Explainer({"looking": model}, cam, limits=Limits(message_bytes=90 * 60 * 4 * 2))
    plan = explainer.plan("looking", "grad-cam", {}, (MapOutput(canvas=Canvas.ORIGINAL),))
    targets = [(ClassIndex(0), ClassIndex(1)), (ClassIndex(0), ClassIndex(1), ClassIndex(2))]
    fits, large = explain_all(explainer, plan, PIXELS[:2], targets)
    assert isinstance(fits, Explained)
    assert told(large) == (InvalidInput, "OUTPUT_TOO_LARGE", "outputs")


def test_thin_pictures_are_refused_before_a_resize_blows_them_up(cams):
    plan = cams.plan("looking", "grad-cam", {})
    assert cams.decode(plan, np.zeros((10, 640, 3), np.uint8)).size == (32, 32)
    with pytest.raises(InvalidInput) as caught:
        cams.decode(plan, np.zeros((10, 641, 3), np.uint8))
    assert told(caught.value) == (InvalidInput, "IMAGE_TOO_LARGE", "input.tensor.shape")


def test_the_references_of_an_input_are_bounded_together(explainer_of):
    """Each of 64 targets may have one, and a file of some kilobytes may hold all pixels that are allowed."""
    explainer = explainer_of(HatesBlack(), limits=Limits(image_pixels=30 * 20))
    plan = explainer.plan("looking", "sum", {})
    picture = np.zeros((20, 30, 3), np.uint8)
    targets = [whylight.Similarity(image=picture + np.uint8(n)) for n in range(5)]
    assert len(explainer.decode(plan, picture, targets=targets[:4] * 2).references) == 4
    with pytest.raises(InvalidInput, match="more than 0, what is left of 2400 for all") as caught:
        explainer.decode(plan, picture, targets=targets)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert caught.value.violations[0].field == "input.targets[4].similarity.tensor.shape"


def test_grey_models_and_many_channels(cam, explain_all):
    def served(channels):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return wrap_module(module, name="m", transform=Transform.plain((16, 16), channels))

    with torch.random.fork_rng():
        grey, many = served(1), served(5)
    outputs = (MapOutput(), whylight.PictureOutput(), whylight.PictureOutput("whole", canvas=Canvas.ORIGINAL))
    explainer = Explainer({"m": grey}, cam)
    results = explain_all(
        explainer, explainer.plan("m", "grad-cam", {}, outputs), [PIXELS[0], np.zeros((1, 16, 16), np.float32)]
    )
    assert [result.explanation.picture.image().size for result in results] == [(16, 16), (16, 16)]
    explainer = Explainer({"m": many}, cam)
    plan = explainer.plan("m", "grad-cam", {}, outputs)
    (result,) = explain_all(explainer, plan, [np.zeros((5, 16, 16), np.float32)])
    assert result.explanation.picture.image().size == (16, 16)
    with pytest.raises(Unsupported) as caught:
        explainer.decode(plan, PIXELS[0])
    assert told(caught.value) == (Unsupported, "INPUT_UNSUPPORTED", "input.tensor.shape")


def test_an_overlay_on_an_array_shows_the_picture_that_was_normalised(explainer_of, explain_all):
    transform = Transform(32, (32, 32), mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    served = wrap_module(module, name="m", transform=transform)
    explainer = explainer_of(Sum(), served)
    plan = explainer.plan("m", "sum", {}, (whylight.PictureOutput(opacity=0.0),))
    pixels = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    normalised = transform.normalise(torch.from_numpy(pixels)[None])[0].numpy()
    (result,) = explain_all(explainer, plan, [normalised])
    assert np.array_equal(np.asarray(result.explanation.picture.image()), pixels)


def test_nothing_is_lost_for_no_inputs(cams):
    assert cams.explain(cams.plan("looking", "grad-cam", {}), [], [], [], []) == []
