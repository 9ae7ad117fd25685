"""A broken plugin is listed as failed, with its reason; everything else works as if it were not there."""

from __future__ import annotations

import importlib.metadata
import json
import sys

import pytest

import whylight
from whylight.plugins import PluginError, Plugins

METHOD = '''
import whylight

class {cls}(whylight.Attribution):
    """A method of a test."""
    name = "{name}"

    def attribute(self, subject, batch, options):
        return batch.inputs[list(batch.rows)].mean(1)
'''
HOOK = """
@whylight.hookimpl
def whylight_methods():
    return [{gives}]
"""


def good(name: str, *more: str) -> str:
    return METHOD.format(cls="One", name=name) + "".join(more) + HOOK.format(gives="One")


BROKEN = {
    "importerror": ("import no_such_module_of_whylight\n", "ModuleNotFoundError: No module named 'no_such_module_of_"),
    "syntax": ("def whylight_methods(:\n", "SyntaxError"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "nohook": ("import whylight\ndef whylight_methods(): return []\n", "implements no hook; put @whylight.hookimpl"),
    "badargument": (
        "import whylight\n@whylight.hookimpl\ndef whylight_methods(registry): return []\n",
        "Argument(s) {'registry'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "misspelt": (
        good("misspelt") + "\n@whylight.hookimpl\ndef whylight_metods(): return []\n",
        "unknown hook 'whylight_metods'; did you mean 'whylight_methods'?",
    ),
    "unknownhook": (
        good("unknownhook") + "\n@whylight.hookimpl\ndef on_request(): return []\n",
        "unknown hook 'on_request'; the hooks are whylight_methods, whylight_metrics, whylight_models",
    ),
    "raises": (
        "import whylight\n@whylight.hookimpl\ndef whylight_methods(): raise ZeroDivisionError('boom')\n",
        "ZeroDivisionError: boom",
    ),
    "halfway": (
        good("halfway").replace("return [One]", "yield One\n    raise RuntimeError('half way')"),
        "RuntimeError: half way",
    ),
    "asynchook": (
        "import whylight\n@whylight.hookimpl\nasync def whylight_methods(): return []\n",
        "whylight_methods is an async function",
    ),
    "notalist": (METHOD.format(cls="One", name="x") + HOOK.replace("[{gives}]", "One"), "which is not a list"),
    "notmethod": (
        "import whylight\nclass One: name = 'one'\n" + HOOK.format(gives="One"),
        "is not a subclass of whylight.Method",
    ),
    "instance": (good("instance").replace("[One]", "[One()]"), "is not a subclass of whylight.Method"),
    "plainmethod": (
        "import whylight\nclass One(whylight.Method):\n    'Doc.'\n    name = 'one'\n" + HOOK.format(gives="One"),
        "One is no whylight.Attribution",
    ),
    "abstract": (
        "import whylight\nclass One(whylight.Attribution):\n    'Doc.'\n    name = 'one'\n" + HOOK.format(gives="One"),
        "One does not define attribute",
    ),
    "noname": (good("noname").replace('name = "noname"', "pass"), "One.name is None; a name is kebab-case"),
    "badname": (good("Bad Name"), "One.name is 'Bad Name'; a name is kebab-case"),
    "nodoc": (good("nodoc").replace('"""A method of a test."""', "pass"), "One has no docstring"),
    "badneeds": (good("badneeds", "\nOne.needs = {'gradients'}\n"), "not a frozenset of whylight.Need"),
    "init": (good("init", "\nOne.__init__ = lambda self, size: None\n"), "TypeError"),
    "badoptions": (good("badoptions", "\nOne.Options = dict\n"), "One.Options is <class 'dict'>, not a subclass of"),
    "looseoptions": (
        good("looseoptions", "\nclass Loose(whylight.Options, extra='allow'): pass\nOne.Options = Loose\n"),
        "One.Options must keep extra='forbid'",
    ),
    "schemaless": (
        good(
            "schemaless",
            "\nclass Odd(whylight.Options, arbitrary_types_allowed=True): f: memoryview = None\nOne.Options = Odd\n",
        ),
        "One.Options has no JSON schema",
    ),
    "required": (
        good("required", "\nclass Needy(whylight.Options): steps: int\nOne.Options = Needy\n"),
        "One.Options gives no default for steps",
    ),
    "twice": (good("twice").replace("[One]", "[One, One]"), "whylight-twice 1.0 offers the method 'twice' twice"),
    "builtin": (
        """
import whylight
class Source(whylight.ModelSource):
    scheme = "python"
    def open(self, name, *, pretrained): raise NotImplementedError
@whylight.hookimpl
def whylight_models(): return [Source]
""",
        "Source.scheme is 'python', which is built in",
    ),
    "notsource": (
        "import whylight\n@whylight.hookimpl\ndef whylight_models(): return ['torchvision']\n",
        "whylight_models gave 'torchvision', which is not a subclass of whylight.ModelSource",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_the_rest_works(kind, install):
    source, reason = BROKEN[kind]
    install(kind, source)
    install("aaa", good("first-of-all"))
    install("zzz", good("last-of-all"))

    plugins = Plugins(only={kind, "aaa", "zzz"})
    plugins.load()

    info = plugins.infos[kind]
    assert (info.state, info.methods, info.model_sources) == ("failed", [], [])
    assert reason in info.error
    assert (info.distribution, info.version) == (f"whylight-{kind}", "1.0")
    assert set(plugins.methods) == {"first-of-all", "last-of-all"}
    assert [plugins.infos[name].state for name in ("aaa", "zzz")] == ["active", "active"]


def test_a_failed_plugin_is_unregistered(install):
    install("misspelt", BROKEN["misspelt"][0])
    install("good", good("good"))
    plugins = Plugins(only={"misspelt", "good"})
    plugins.load()
    assert [name for name, _ in plugins._manager.list_name_plugin()] == ["good"]
    assert len(plugins._manager.hook.whylight_methods()) == 1


def test_a_duplicate_method_name_names_both_distributions_and_their_versions(install):
    install("one", good("shared"), version="1.5")
    install("two", good("shared") + METHOD.format(cls="Own", name="own"), version="0.3")
    plugins = Plugins(only={"one", "two"})
    plugins.load()
    assert plugins.infos["one"].state == "active"
    assert plugins.infos["two"].state == "failed"
    error = plugins.infos["two"].error
    assert "the method 'shared' of whylight-two 0.3 is already offered by whylight-one 1.5" in error
    assert {name: offered.plugin for name, offered in plugins.methods.items()} == {"shared": "one"}


def test_a_duplicate_model_scheme_names_both_distributions_and_their_versions(install):
    source = """
    import whylight

    class Source(whylight.ModelSource):
        '''Models of a test.'''
        scheme = "shared"
        def open(self, name, *, pretrained): raise NotImplementedError

    @whylight.hookimpl
    def whylight_models():
        return [Source]
    """
    install("one", source, version="1.5")
    install("two", source, version="0.3")
    plugins = Plugins(only={"one", "two"})
    plugins.load()
    assert (plugins.infos["one"].state, plugins.infos["one"].model_sources) == ("active", ["shared"])
    assert (
        "the model source 'shared' of whylight-two 0.3 is already offered by whylight-one 1.5"
        in plugins.infos["two"].error
    )
    assert plugins.sources["shared"].__module__ == "whylight_one"


def test_the_order_is_that_of_the_names_and_not_of_the_installation(install):
    install("zebra", good("zebra-method"))
    install("ant", good("ant-method"))
    plugins = Plugins(only={"zebra", "ant"})
    plugins.load()
    mine = [name for name, info in plugins.infos.items() if info.state == "active"]
    assert mine == ["ant", "zebra"]


def test_the_same_entry_point_name_in_two_distributions(install):
    install("one", good("first"))
    install("two", good("second"))
    points = [
        importlib.metadata.EntryPoint("same", "whylight_one", "whylight"),
        importlib.metadata.EntryPoint("same", "whylight_two", "whylight"),
    ]
    plugins = Plugins()
    plugins.load(points)
    assert [info.state for info in plugins.infos.values()] == ["active", "failed"]
    assert [info.name for info in plugins.infos.values()] == ["same", "same"]
    assert "the name 'same' is taken" in next(reversed(plugins.infos.values())).error
    assert set(plugins.methods) == {"first"}


@pytest.mark.parametrize(
    "settings", [{"block": {"bomb"}}, {"only": ()}, {"only": {"good"}}, {"only": {"bomb"}, "block": {"bomb"}}]
)
def test_a_blocked_plugin_is_never_imported(settings, install, tmp_path):
    install("bomb", f"open({str(tmp_path / 'exploded')!r}, 'w').close()\nraise SystemExit\n")
    install("good", good("good"))
    plugins = Plugins(**settings)
    plugins.load(point for point in importlib.metadata.entry_points(group="whylight") if point.name in ("bomb", "good"))
    assert plugins.infos["bomb"].state == "blocked"
    assert plugins.infos["bomb"].distribution == "whylight-bomb"
    assert not (tmp_path / "exploded").exists()
    assert "whylight_bomb" not in sys.modules
    assert plugins.infos["good"].state == (
        "active" if "only" not in settings or settings["only"] == {"good"} else "blocked"
    )


def test_strict_raises_at_the_first_failure_and_names_it(install):
    install("importerror", BROKEN["importerror"][0])
    with pytest.raises(PluginError, match=r"plugin 'importerror' \(whylight-importerror 1.0\): ModuleNotFoundError"):
        Plugins(only={"importerror"}, strict=True).load()


def test_an_allowed_plugin_that_is_not_installed_is_a_failure():
    plugins = Plugins(only={"no-such-plugin"})
    plugins.load()
    assert plugins.infos["no-such-plugin"].state == "failed"
    assert "not installed" in plugins.infos["no-such-plugin"].error
    with pytest.raises(PluginError, match="no-such-plugin"):
        Plugins(only={"no-such-plugin"}, strict=True).load()


def test_an_optional_hook_of_a_newer_server_is_no_mistake(install):
    install("newer", good("newer") + "\n@whylight.hookimpl(optionalhook=True)\ndef whylight_dreams(): return []\n")
    plugins = Plugins(only={"newer"}, strict=True)
    plugins.load()
    assert plugins.infos["newer"].methods == ["newer"]


def test_a_long_reason_is_cut_and_stays_one_line(install):
    install("loud", "raise ValueError('line\\n' * 5000)\n")
    plugins = Plugins(only={"loud"})
    plugins.load()
    assert len(plugins.infos["loud"].error) <= 1000
    assert "\n" not in plugins.infos["loud"].error


def test_a_reason_names_files_but_not_where_they_lie(install, tmp_path):
    install("lost", f"open({str(tmp_path / 'no-such-file.bin')!r})\n")
    plugins = Plugins(only={"lost"})
    plugins.load()
    error = plugins.infos["lost"].error
    assert error == "FileNotFoundError: [Errno 2] No such file or directory: 'no-such-file.bin'"


def test_an_offer_is_an_instance_with_its_origin(install):
    install("good", good("good"), version="2.1")
    plugins = Plugins(only={"good"})
    plugins.load()
    offered = plugins.methods["good"]
    assert isinstance(offered.method, whylight.Attribution)
    assert (offered.plugin, offered.distribution) == ("good", "whylight-good 2.1")


def test_our_own_plugins_load_strictly():
    plugins = Plugins(only={"cam", "gradients", "metrics"}, strict=True)
    plugins.load()
    assert {"cam", "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam"} <= set(plugins.infos["cam"].methods)
    assert {"saliency", "input-x-gradient"} <= set(plugins.infos["gradients"].methods)
    assert {"insertion", "deletion", "road"} <= set(plugins.infos["metrics"].metrics)
    methods = [offered.method for offered in plugins.methods.values()]
    for one in [*methods, *(offered.metric for offered in plugins.metrics.values())]:
        json.dumps(one.Options.model_json_schema())
        assert one.reference
        assert one.summary().endswith(".")


METRIC = """
import torch
import whylight

class Half(whylight.Metric):
    "Half of everything."
    name = "half"
    def measure(self, subject, batch, maps, explain, options):
        return whylight.Measured(torch.full((len(maps),), 0.5))

@whylight.hookimpl
def whylight_metrics(): return [Half]
"""


def test_metrics_are_loaded_beside_methods_and_listed(install):
    install("half", METRIC)
    plugins = Plugins(only=["half"])
    plugins.load()
    assert plugins.infos["half"].metrics == ["half"]
    assert plugins.metrics["half"].plugin == "half"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[Half]", "[Half, Half]", "offers the metric 'half' twice"),
        ("[Half]", "['half']", "whylight_metrics gave 'half', which is not a subclass of whylight.Metric"),
        ('name = "half"', 'name = "Half It"', "a name is kebab-case, such as 'insertion'"),
        ("def measure", "def measures", "does not define measure"),
    ],
)
def test_a_metric_that_cannot_be_used_is_a_failure_with_its_reason(install, old, new, reason):
    install("halved", METRIC.replace(old, new))
    plugins = Plugins(only=["halved"])
    plugins.load()
    assert plugins.infos["halved"].state == "failed"
    assert reason in plugins.infos["halved"].error
    assert not plugins.metrics
