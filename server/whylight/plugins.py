"""The loader of plugins: finds, checks, isolates and lists them; knows neither what they compute nor torch."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from whylight.hookspecs import PROJECT, Hookspecs
from whylight.method import Attribution, Inspection, Method, Need, Synthesis
from whylight.metric import Metric
from whylight.options import Options, PlainOptions

if TYPE_CHECKING:
    from whylight.models import ModelSource

log = logging.getLogger(__name__)

MAX_REASON = 1000
"""Longest reason, in characters, that a listing gives for a plugin's failure; the log has the whole of it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9+-]{0,63}")
_SCHEME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\"()]+[\\/])+")


class PluginError(Exception):
    """A plugin cannot be used; the message says which, and why."""


@dataclass(frozen=True)
class OfferedMethod:
    """A method that this server offers, and where it comes from.

    `plugin` is the name of the entry point; `distribution` the name and version it came with: ``whylight-foo 1.2``.
    """

    method: Method
    plugin: str
    distribution: str


@dataclass(frozen=True)
class OfferedMetric:
    """A metric that this server offers, and where it comes from; see `OfferedMethod`."""

    metric: Metric
    plugin: str
    distribution: str


@dataclass
class PluginInfo:
    """One row of ``whylight plugins`` and of ListPlugins: what became of a plugin, why, and what it offers."""

    name: str
    distribution: str
    version: str
    state: Literal["active", "blocked", "failed"] = "active"
    error: str = ""
    methods: list[str] = field(default_factory=list)
    model_sources: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Distribution and version, such as ``whylight-foo 1.2``."""
        return f"{self.distribution} {self.version}".strip()


class Plugins:
    """The plugins of one process. A broken plugin is listed as failed, with its reason, and never harms the others.

    `only` names the plugins that may be used (None: all; empty: none) and `block` those that may not; both are names
    of entry points and are applied before the import, so a plugin that is kept out runs no code. Naming a plugin in
    `only` that is not installed is a failure too. With `strict` the first failure raises PluginError.
    """

    def __init__(
        self, *, only: Collection[str] | None = None, block: Collection[str] = (), strict: bool = False
    ) -> None:
        self.only = None if only is None else frozenset(only)
        self.block = frozenset(block)
        self.strict = strict
        self.infos: dict[str, PluginInfo] = {}
        self.methods: dict[str, OfferedMethod] = {}
        self.metrics: dict[str, OfferedMetric] = {}
        self.sources: dict[str, type[ModelSource]] = {}
        self._owners: dict[tuple[str, str], PluginInfo] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hookspecs)

    def load(self, points: Iterable[EntryPoint] | None = None) -> None:
        """Load `points`, or every installed entry point of the group "whylight", in the order of their names.

        Raises:
            PluginError: a plugin failed, and `strict` is set.
        """
        found = entry_points(group=PROJECT) if points is None else points
        for point in sorted(found, key=lambda point: (point.name, point.value)):
            info = self._list(point)
            if point.name in self.block or (self.only is not None and point.name not in self.only):
                info.state = "blocked"
                continue
            first = self.infos[point.name]
            if first is not info:
                self._fail(info, PluginError(f"the name {point.name!r} is taken by {first.source}"))
                continue
            try:
                self._add(info, point.load())
            except (Exception, SystemExit) as error:  # a plugin that calls sys.exit() must not end the server
                self._fail(info, error)
        for name in sorted((self.only or frozenset()) - self.infos.keys()):
            self.infos[name] = info = PluginInfo(name, "", "")
            self._fail(info, PluginError("is allowed, but not installed"))

    def _list(self, point: EntryPoint) -> PluginInfo:
        """Enter the plugin into the listing; a second one of the same name goes under its distribution's name too."""
        distribution = point.dist
        info = PluginInfo(
            point.name, distribution.name if distribution else "", distribution.version if distribution else ""
        )
        key = point.name
        while key in self.infos:
            key = f"{key} ({info.source or point.value})"
        self.infos[key] = info
        return info

    def _add(self, info: PluginInfo, plugin: object) -> None:
        """Register one plugin, and take what it offers; all of it or nothing."""
        try:
            self._manager.register(plugin, info.name)
            self._check_hooks(plugin)
            methods = {
                method.name: method for method in self._check_methods(info, self._ask("whylight_methods", plugin))
            }
            metrics = {
                metric.name: metric for metric in self._check_metrics(info, self._ask("whylight_metrics", plugin))
            }
            sources = {
                source.scheme: source for source in self._check_sources(info, self._ask("whylight_models", plugin))
            }
        except BaseException:
            self._manager.unregister(name=info.name)  # pluggy 1.6 leaves a plugin that failed half registered
            raise
        for name, method in methods.items():
            self.methods[name] = OfferedMethod(method, info.name, info.source)
        for name, metric in metrics.items():
            self.metrics[name] = OfferedMetric(metric, info.name, info.source)
        self.sources.update(sources)
        for kind, names in (("method", methods), ("metric", metrics), ("model source", sources)):
            self._owners.update({(kind, name): info for name in names})
        info.methods, info.metrics, info.model_sources = sorted(methods), sorted(metrics), sorted(sources)

    def _check_hooks(self, plugin: object) -> None:
        """Refuse hooks that the server does not have. pluggy would ignore them, and a misspelt hook be silent."""
        known = sorted(name for name, caller in vars(self._manager.hook).items() if caller.has_spec())
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise PluginError(f"implements no hook; put @whylight.hookimpl above one of {', '.join(known)}")
        for caller in callers:
            if caller.has_spec() or all(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is plugin):
                continue
            close = difflib.get_close_matches(caller.name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the hooks are {', '.join(known)}"
            raise PluginError(f"unknown hook {caller.name!r}; {hint}")

    def _ask(self, hook: str, plugin: object) -> Iterator[Any]:
        """Call one hook of one plugin alone: pluggy neither says who gave what nor goes on after an exception."""
        others = self._manager.get_plugins() - {plugin}
        for items in self._manager.subset_hook_caller(hook, others)():
            if inspect.iscoroutine(items):
                items.close()
                raise PluginError(f"{hook} is an async function; hooks are plain functions")
            if isinstance(items, str) or not isinstance(items, Iterable):
                raise PluginError(f"{hook} gave {_show(items)}, which is not a list")
            yield from items

    def _check_methods(self, info: PluginInfo, offers: Iterable[Any]) -> Iterator[Method]:
        seen: set[str] = set()
        for offer in offers:
            method = _check_method(offer)
            self._check_free(info, "method", method.name, seen)
            yield method

    def _check_metrics(self, info: PluginInfo, offers: Iterable[Any]) -> Iterator[Metric]:
        seen: set[str] = set()
        for offer in offers:
            metric = _check_metric(offer)
            self._check_free(info, "metric", metric.name, seen)
            yield metric

    def _check_sources(self, info: PluginInfo, offers: Iterable[Any]) -> Iterator[type[ModelSource]]:
        seen: set[str] = set()
        for offer in offers:
            source = _check_source(offer)
            self._check_free(info, "model source", source.scheme, seen)
            yield source

    def _check_free(self, info: PluginInfo, kind: str, name: str, seen: set[str]) -> None:
        if name in seen:
            raise PluginError(f"{info.source} offers the {kind} {name!r} twice")
        seen.add(name)
        owner = self._owners.get((kind, name))
        if owner is not None:
            raise PluginError(
                f"the {kind} {name!r} of {info.source} is already offered by {owner.source} (plugin {owner.name!r}); "
                f"block one of the two plugins"
            )

    def _fail(self, info: PluginInfo, error: BaseException) -> None:
        reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        # Callers read the listing too, and are not to learn where files lie; the log below has the traceback.
        info.state, info.error = "failed", _FOLDERS.sub("", " ".join(reason.split()))[:MAX_REASON]
        message = " ".join(f"plugin {info.name!r} ({info.source or 'no distribution'}): {info.error}".split())
        if self.strict:
            raise PluginError(message) from error
        log.warning(message, exc_info=None if isinstance(error, PluginError) else error)


def _check_method(offer: Any) -> Method:
    """Return an instance of the offered method class, or say what is wrong with it."""
    if not (inspect.isclass(offer) and issubclass(offer, Method)):
        raise PluginError(f"whylight_methods gave {_show(offer)}, which is not a subclass of whylight.Method")
    label = offer.__qualname__
    if not issubclass(offer, Attribution | Synthesis | Inspection):
        raise PluginError(f"{label} is no whylight.Attribution, whylight.Synthesis or whylight.Inspection")
    _check_words(offer, "grad-cam")
    _check_options(offer, Options if issubclass(offer, Attribution) else PlainOptions)
    return offer()


def _check_metric(offer: Any) -> Metric:
    """Return an instance of the offered metric class, or say what is wrong with it."""
    if not (inspect.isclass(offer) and issubclass(offer, Metric)):
        raise PluginError(f"whylight_metrics gave {_show(offer)}, which is not a subclass of whylight.Metric")
    _check_words(offer, "insertion")
    _check_options(offer, PlainOptions)
    return offer()


def _check_words(offer: type[Method | Metric], example: str) -> None:
    """Refuse an offer that does not say what it is called, what it does and what it needs."""
    label = offer.__qualname__
    _check_concrete(offer)
    name = getattr(offer, "name", None)
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise PluginError(f"{label}.name is {name!r}; a name is kebab-case, such as {example!r}")
    if not offer.summary():
        raise PluginError(f"{label} has no docstring; its first line is the summary that callers read")
    if not (isinstance(offer.version, str) and offer.version):
        raise PluginError(f"{label}.version is {offer.version!r}, not a string")
    if not (isinstance(offer.needs, frozenset) and all(isinstance(need, Need) for need in offer.needs)):
        raise PluginError(f"{label}.needs is {offer.needs!r}, not a frozenset of whylight.Need")


def _check_options(offer: type[Method | Metric], base: type[PlainOptions]) -> None:
    kind, label = offer.Options, f"{offer.__qualname__}.Options"
    if not (inspect.isclass(kind) and issubclass(kind, base)):
        raise PluginError(f"{label} is {_show(kind)}, not a subclass of whylight.{base.__name__}")
    if kind.model_config.get("extra") != "forbid" or not kind.model_config.get("frozen"):
        raise PluginError(f"{label} must keep extra='forbid' and frozen=True, so that a misspelt option is refused")
    try:
        schema: Mapping[str, Any] = kind.model_json_schema()
        required = schema.get("required", ())
    except Exception as error:
        raise PluginError(f"{label} has no JSON schema: {type(error).__name__}: {error}") from error
    if required and not issubclass(offer, Synthesis | Inspection):  # what is looked for, nobody can guess
        raise PluginError(f"{label} gives no default for {', '.join(required)}; it must run without options")


def _check_source(offer: Any) -> type[ModelSource]:
    """Return the offered model source, or say what is wrong with it."""
    from whylight.models import ModelSource  # here, for only plugins with model sources need it
    from whylight.models.source import PythonSource

    if not (inspect.isclass(offer) and issubclass(offer, ModelSource)):
        raise PluginError(f"whylight_models gave {_show(offer)}, which is not a subclass of whylight.ModelSource")
    _check_concrete(offer)
    scheme = getattr(offer, "scheme", None)
    if not (isinstance(scheme, str) and _SCHEME.fullmatch(scheme)):
        raise PluginError(f"{offer.__qualname__}.scheme is {scheme!r}; a scheme is lower case, such as 'torchvision'")
    if scheme == PythonSource.scheme:
        raise PluginError(f"{offer.__qualname__}.scheme is {scheme!r}, which is built in")
    return offer


def _check_concrete(offer: type[Any]) -> None:
    missing = sorted(getattr(offer, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{offer.__qualname__} does not define {', '.join(missing)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
