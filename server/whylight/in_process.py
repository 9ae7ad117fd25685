"""Explains without a server: any module, model or model name, on pictures and arrays; knows no request, no network."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from whylight.decode import companion_array, upright_rgb
from whylight.errors import InvalidInput, WhylightError
from whylight.explainer import Explainer, Watcher
from whylight.explainer import Progress as PlannedProgress
from whylight.explainer.inputs import decode_input
from whylight.explanation import Explained
from whylight.limits import Limits
from whylight.method import Attribution, Method
from whylight.models import Model, ModelConfig, Transform, open_model, wrap_module
from whylight.models.device import usable_device
from whylight.models.source import unplaced_name
from whylight.options import Options
from whylight.outputs import MapOutput, Output, PictureOutput
from whylight.plugins import OfferedMethod, Plugins
from whylight.progress import Progress
from whylight.subject import CancelToken
from whylight.target import Target, as_target

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | Tensor
"""A path, an image file's bytes, a PIL picture, uint8 `[H, W, 3]`, or a normalised float input `[C, H, W]`."""
MethodLike: TypeAlias = str | type[Method] | Method
"""The name of a method, or a method class of your own, or one made of it."""
TargetLike: TypeAlias = Target | int | str | None
Companions: TypeAlias = Mapping[str, npt.NDArray[Any] | Tensor | Sequence[Any]]
"""What a model takes besides the picture, by name: arrays, tensors or lists of numbers."""

_CHUNK = 32
_LIMITS = Limits(message_bytes=sys.maxsize)  # nothing travels, so an answer may be as large as memory allows


def explain(
    model: nn.Module | Model | str,
    images: ImageLike | Sequence[ImageLike],
    method: MethodLike | Sequence[MethodLike] = "grad-cam",
    target: TargetLike | Sequence[TargetLike | Sequence[TargetLike]] = None,
    *,
    options: Mapping[str, Any] | Options | None = None,
    outputs: Sequence[Output] | None = None,
    seed: int | None = None,
    top_predictions: int = 5,
    device: str | torch.device | None = None,
    companions: Companions | Sequence[Companions] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    running_maps: bool = False,
) -> Explained | list[Explained]:
    """Explain why `model` answers what it answers for `images`; no server is needed, and no module is changed.

    `model` is any module, a `whylight.Model`, or the name of one, such as ``"torchvision:resnet18"``; modules and names
    are prepared once. A bare module is taken to want RGB in 0..1 at 224 x 224, or, if it does not run on that, at the
    size of the first float array; `whylight.models.wrap_module` tells it better. `images` is one image or a list of
    them (or an array with one dimension more); one gives an `Explained`, many give a list. `method` is a name, a method
    class of your own, or a list of them: each gives its explanations, in this order, with the same `options` and
    `seed`, and what they need in common is computed once. `target` is an index, a label, a `Target` or None for the top
    prediction; for one image a list of them means several explanations, for many images it has one entry (or list) for
    each; arrays and tensors of indices are lists. `companions` are what the model takes besides the picture, by name,
    the same for all images or, as a list, for each. `outputs` are a native map and an overlay unless given. Without a
    `seed`, one is drawn for the call. `on_progress` is called now and then with how far an image has come, by methods
    that say so; with `running_maps`, also with the maps so far.

    Raises:
        WhylightError: the first thing that went wrong; `violations` name the image. See `whylight.errors`.
        TypeError: an argument is of no type that is named above.
    """
    listed, many = _listed(images)
    opened = _opened(model, device, listed)
    names, methods = _methods(method)
    several = isinstance(method, list | tuple)
    explainer = Explainer({opened.name: opened}, methods, limits=_LIMITS)
    asked = options.model_dump(exclude_unset=True) if isinstance(options, Options) else dict(options or {})
    wanted = (MapOutput(), PictureOutput()) if outputs is None else _outputs(outputs)
    try:
        plan = explainer.plan_methods(opened.name, [(name, asked) for name in names], wanted, top_predictions)
    except WhylightError as error:
        raise _of_method(error, several) from None
    targets = _targets(target, len(listed), many)
    beside = _companions(companions, len(listed))
    drawn = secrets.randbits(63) if seed is None else _seed(seed)
    results: list[Explained] = []
    for start in range(0, len(listed), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(listed)))
        inputs = []
        for place in chunk:
            try:
                data = _loaded(listed[place])
                inputs.append(decode_input(plan, data, _LIMITS, beside[place], targets[place]))
            except WhylightError as error:
                raise _named(error, place, many) from None
        tokens = [CancelToken() for _ in chunk]
        watchers = [on_progress and _watcher(on_progress, place, names, running_maps) for place in chunk]
        seeds = [[drawn] * len(names)] * len(chunk)
        made = explainer.explain(plan, inputs, [targets[n] for n in chunk], seeds, tokens, watchers)
        for place, result in zip(chunk, made, strict=True):
            if isinstance(result, WhylightError):
                raise _of_method(_named(result, place, many), several)
            results.append(dataclasses.replace(result, model=plan.model.name, model_digest=plan.model.digest))
    return results if many else results[0]


class _Prepared:
    """Models made of callers' modules, each for as long as the module lives and keeps its tensors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Model]] = weakref.WeakKeyDictionary()

    def of(self, module: nn.Module, device: str | torch.device | None, example: tuple[int, ...] | None = None) -> Model:
        """Return the model of `module`; made anew if tensors or layers were exchanged since, or on another device.

        `example` is the shape (C, H, W) of an input, for modules that do not run on one of the usual size.
        """
        tensors = [*module.named_parameters(), *module.named_buffers()]
        state = (
            str(device),
            *((name, type(layer), id(layer)) for name, layer in module.named_modules()),
            *((name, tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape) for name, tensor in tensors),
        )
        with self._lock:
            known = self._models.get(module)
            if known is None or known[0] != state:
                known = (state, _wrapped(module, device, example))
                self._models[module] = known
            return known[1]


_prepared = _Prepared()


def _wrapped(module: nn.Module, device: str | torch.device | None, example: tuple[int, ...] | None) -> Model:
    try:
        return wrap_module(module, device=device)
    except InvalidInput as error:
        fields = [violation.field for violation in error.violations]
        if "output" in fields:
            raise InvalidInput(
                f"{error.message.partition(';')[0]}; say which is explained by handing over "
                "whylight.models.wrap_module(module, output=...)",
                field="model",
            ) from None
        if example is None or "input_size" not in fields:
            raise
        channels, height, width = example
        return wrap_module(module, device=device, transform=Transform.plain((height, width), channels))


def _opened(model: nn.Module | Model | str, device: str | torch.device | None, images: Sequence[Any] = ()) -> Model:
    if isinstance(model, Model):
        if device is not None and usable_device(device) != model.device:
            raise InvalidInput(f"the model is on {model.device}; it is not moved to {device}", field="device")
        return model
    if isinstance(model, nn.Module):
        return _prepared.of(model, device, next((shape for shape in map(_float_shape, images) if shape), None))
    if isinstance(model, str):
        chosen = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        return _named_model(model, str(chosen))
    raise TypeError(f"model is a module, a whylight.Model or a name, not {type(model).__name__}")


@functools.lru_cache(maxsize=4)
def _named_model(name: str, device: str) -> Model:
    plugins = _plugins()
    if ":" not in name:
        raise unplaced_name(name, plugins.sources)
    return open_model(ModelConfig(name=name, source=name), plugins.sources, device)


@functools.cache
def _plugins() -> Plugins:
    plugins = Plugins()
    plugins.load()
    return plugins


def _methods(method: MethodLike | Sequence[MethodLike]) -> tuple[list[str], Mapping[str, OfferedMethod]]:
    """Return the names of the methods, and the methods that there are."""
    listed: Sequence[Any] = method if isinstance(method, list | tuple) else [method]
    own = [_own_method(one) for one in listed if not isinstance(one, str)]
    methods = dict(_plugins().methods) if len(own) < len(listed) else {}
    for offered in own:
        known = methods.get(offered.method.name)
        if known is not None and type(known.method) is not type(offered.method):
            raise InvalidInput(f"two methods have the name {offered.method.name!r}", field="method")
        methods[offered.method.name] = offered
    names = iter(own)
    return [one if isinstance(one, str) else next(names).method.name for one in listed], methods


def _own_method(method: Any) -> OfferedMethod:
    made = method() if isinstance(method, type) and issubclass(method, Attribution) else method
    if not isinstance(made, Attribution):
        raise TypeError(f"method is a name or a whylight.Attribution, not {method!r}")
    if not isinstance(getattr(made, "name", None), str):
        raise TypeError(f"{type(made).__qualname__} has no name; set the class variable 'name'")
    if not (isinstance(made.Options, type) and issubclass(made.Options, Options)):
        raise TypeError(f"{type(made).__qualname__}.Options is not a subclass of whylight.Options")
    return OfferedMethod(made, plugin="", distribution="")


def _listed(images: ImageLike | Sequence[ImageLike]) -> tuple[Sequence[Any], bool]:
    """Return the images as a list, and whether the caller sees them as many."""
    if isinstance(images, list | tuple):
        return images, True
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), True
    return [images], False


def _float_shape(image: Any) -> tuple[int, ...] | None:
    """Return the shape of a float array `[C, H, W]`, None for everything else."""
    floating = image.is_floating_point() if isinstance(image, Tensor) else getattr(image, "dtype", np.uint8) != np.uint8
    fits = isinstance(image, np.ndarray | Tensor) and floating and image.ndim == 3 and 0 not in image.shape
    return tuple(image.shape) if fits else None


def _companions(companions: Any, count: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Return the companions of each image."""
    if companions is None or isinstance(companions, Mapping):
        return [_arrays(companions or {})] * count
    if len(companions) != count:
        raise InvalidInput(
            f"there are {count} images and {len(companions)} companions; give one for all, or one for each",
            field="companions",
        )
    return [_arrays(each) for each in companions]


def _arrays(companions: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    return {
        name: companion_array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
        for name, values in companions.items()
    }


def _outputs(outputs: Any) -> tuple[Output, ...]:
    listed = tuple(outputs) if isinstance(outputs, list | tuple) else (None,)
    if not all(isinstance(output, Output) for output in listed):
        raise TypeError(f"outputs are a list of MapOutput, PictureOutput, BoxesOutput and MaskOutput, not {outputs!r}")
    return listed


def _seed(seed: Any) -> int:
    """Check a seed as a server does, for which it is a uint64."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= operator.index(seed) < 2**64:
        raise InvalidInput(f"{seed!r} is no seed: give a whole number from 0 to 2^64 - 1", field="seed")
    return operator.index(seed)


def _loaded(image: Any) -> bytes | npt.NDArray[Any] | Image.Image:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Tensor):
        array = image.detach().cpu()
        return (array.float() if array.dtype is torch.bfloat16 else array).numpy()
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"{os.fspath(image)!r} cannot be read: {error.strerror}", reason="IMAGE_UNREADABLE", field="input.image"
            ) from None
    raise TypeError(f"an image is a path, bytes, a PIL picture, an array or a tensor, not {type(image).__name__}")


def _targets(target: Any, count: int, many: bool) -> list[tuple[Target, ...]]:
    """Return the targets of each image: a list belongs to the one image, or has an entry for each of the many."""
    if isinstance(target, np.ndarray | Tensor):
        target = target.tolist()
    elif isinstance(target, range):
        target = list(target)
    if not isinstance(target, list | tuple):
        return [(_target(target),)] * count
    if not many:
        return [tuple(_target(entry) for entry in target)]
    if len(target) != count:
        raise InvalidInput(
            f"there are {count} images and {len(target)} targets; give one for all, or one (or a list) for each",
            reason="TARGET_INVALID",
            field="target",
        )
    return [tuple(map(_target, entry)) if isinstance(entry, list | tuple) else (_target(entry),) for entry in target]


def _target(value: Any) -> Target:
    """Read one target; whole numbers may be numpy's or torch's."""
    if value is None or isinstance(value, str) or dataclasses.is_dataclass(value):
        return as_target(value)  # type: ignore[arg-type]
    if not isinstance(value, bool):
        with suppress(TypeError):
            return as_target(operator.index(value))
    raise TypeError(f"a target is an index, a label, a Target or None, not {type(value).__name__}")


def _watcher(on_progress: Callable[[Progress], None], place: int, names: Sequence[str], running_maps: bool) -> Watcher:
    """Return what tells the caller of the image at `place`, in the words of `explain`'s arguments."""

    def tell(news: PlannedProgress) -> None:
        maps = () if news.maps is None else tuple(news.maps.numpy())
        on_progress(Progress(place, names[news.method], news.method, news.done, news.total, maps))

    return Watcher(tell, running_maps=running_maps)


def _named(error: WhylightError, place: int, many: bool) -> WhylightError:
    """Say which image an error is about, in the words of `explain`'s arguments."""
    return error.locate({"input": f"images[{place}]" if many else "images"})


def _of_method(error: WhylightError, several: bool) -> WhylightError:
    """Say which method an error is about, in the words of `explain`'s arguments."""
    return error.locate({"methods": "method"} if several else {"methods[0]": "method"})
