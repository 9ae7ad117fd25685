"""[[models]] and [admin]: which worker has which model, and who may change that."""

from __future__ import annotations

from pathlib import Path

import pytest

from whylight.settings import ConfigurationError, load_settings

TWO_MODELS = '[[models]]\nname = "a"\nsource = "demo:a"\n{a}\n[[models]]\nname = "b"\nsource = "demo:b"\n{b}\n'
TWO_WORKERS = '[worker]\ndevices = ["cpu", "cpu"]\n'


def toml(folder: Path, text: str) -> Path:
    path = folder / "whylight.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_by_default_every_worker_has_every_model(tmp_path: Path) -> None:
    choices = load_settings(toml(tmp_path, TWO_MODELS.format(a="", b="") + TWO_WORKERS)).model_choices()
    assert {name: (choice.workers, choice.load) for name, choice in choices.items()} == {
        "a": ((0, 1), True),
        "b": ((0, 1), True),
    }


def test_a_model_may_be_for_some_workers_and_be_left_for_later(tmp_path: Path) -> None:
    text = TWO_MODELS.format(a="workers = [1, 0, 1]", b="workers = [1]\nload = false") + TWO_WORKERS
    choices = load_settings(toml(tmp_path, text)).model_choices()
    assert choices["a"].workers == (0, 1)
    assert (choices["b"].workers, choices["b"].load) == ((1,), False)
    assert not {"workers", "load"} & set(choices["b"].fields), "a worker is told of the model only"
    assert choices["b"].fields["name"] == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO_MODELS.format(a="workers = [2]", b="") + TWO_WORKERS, "'a' is for worker 2, and worker.devices has 2"),
        (TWO_MODELS.format(a="workers = [0]", b="workers = [0]") + TWO_WORKERS, r"none is for worker 1 \(cpu\)"),
        (TWO_MODELS.format(a="workers = []", b="") + TWO_WORKERS, "workers"),
        (TWO_MODELS.format(a="worker = [0]", b=""), "did you mean 'workers'"),
        (TWO_MODELS.format(a="digest = 'md5:1'", b=""), "digest"),
        ("[admin]\nport = 1234\n", "set authentication.tokens_file, or admin.socket"),
        ("[admin]\nport = 1234\nsocket = '/tmp/s'\n", "either a socket or a port"),
        ("[admin]\nport = 50051\n[authentication]\ntokens_file = 't'\n", "a port of its own"),
        ("[admin]\nport = 1\nhost = '0.0.0.0'\n[authentication]\ntokens_file = 't'\n", "in the clear"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_settings(toml(tmp_path, text))


def test_administration_is_closed_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert not load_settings().admin.enabled
    assert load_settings(toml(tmp_path, "[admin]\nsocket = '/run/whylight/admin.sock'\n")).admin.enabled
