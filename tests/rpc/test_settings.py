"""Settings: where they come from, what is refused, and that the page about them is true."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from whylight.engine.roster import OUTSTANDING
from whylight.limits import Limits
from whylight.settings import ConfigurationError, Settings, load_settings

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for variable in os.environ:
        if variable.startswith("WHYLIGHT_"):
            monkeypatch.delenv(variable)


def toml(folder: Path, text: str) -> Path:
    path = folder / "whylight.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_at_all_serves_the_demo_model():
    settings = load_settings()
    assert [(model.name, model.source) for model in settings.models] == [
        ("efficientnet-lite0", "demo:efficientnet-lite0")
    ]
    assert settings.default_model_name == "efficientnet-lite0"
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 50051)


def test_limits_are_by_default_those_that_everybody_knows():
    assert load_settings().limits.limits() == Limits()
    assert set(load_settings().limits.model_dump()) == set(asdict(Limits()))


def test_flags_outweigh_the_environment_which_outweighs_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = toml(tmp_path, "[server]\nport = 1\nhost = '::1'\nstream_window = 7\n[queue]\nitems = 5000\n")
    monkeypatch.setenv("WHYLIGHT_SERVER__PORT", "2")
    monkeypatch.setenv("WHYLIGHT_SERVER__HOST", "localhost")
    settings = load_settings(path, {"server": {"port": 3}})
    server = settings.server
    assert (server.port, server.host, server.stream_window, server.reflection) == (3, "localhost", 7, True)
    assert settings.queue.items == 5000


def test_the_environment_may_name_the_file_and_a_path_outweighs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHYLIGHT_CONFIG", str(toml(tmp_path, "[server]\nport = 1\n")))
    assert load_settings().server.port == 1
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n")
    assert load_settings(other).server.port == 2


def test_lists_and_tables_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHYLIGHT_MODELS", '[{"name": "a", "source": "demo:a"}, {"name": "b", "source": "demo:b"}]')
    monkeypatch.setenv("WHYLIGHT_PLUGINS__BLOCK", '["cam"]')
    monkeypatch.setenv("WHYLIGHT_BATCHING", '{"max_batch": 3}')
    monkeypatch.setenv("WHYLIGHT_DEFAULT_MODEL", "b")
    settings = load_settings()
    assert [model.name for model in settings.models] == ["a", "b"]
    assert (settings.plugins.block, settings.plugins.only, settings.batching.max_batch) == (["cam"], None, 3)
    assert settings.default_model_name == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1", "server.prot: unknown setting; did you mean 'port'?"),
        ("[sever]\nport = 1", "sever: unknown setting; did you mean 'server'?"),
        (
            "[[models]]\nname='a'\nsource='demo:a'\nweight='x'",
            "models[0].weight: unknown setting; did you mean 'weights'?",
        ),
        ("[server]\nport = 70000", "server.port: Input should be less than or equal to 65535 (given: 70000)"),
        ("[batching]\nmax_delay_seconds = -1", "batching.max_delay_seconds: "),
        ("[server]\nlog_level = 'loud'", "server.log_level: "),
        ("[server]\ndrain_seconds = inf", "server.drain_seconds: "),
        ("[worker]\ndevices = ['gpu']", "worker.devices[0]: "),
        ("[worker]\ndevices = []", "worker.devices: "),
        ("models = []", "models: "),
        ("[[models]]\nname='a'", "models[0].source: Field required"),
        ("default_model = 'b'", "default_model: 'b' is not among the models: efficientnet-lite0"),
        ("[[models]]\nname='a'\nsource='demo:a'\n" * 2, "models: 2 models have the name 'a'"),
        ("[plugins]\nonly = ['cam', 'a']\nblock = ['cam']", "plugins: cam cannot be both in only and in block"),
        ("[batching]\nmax_batch = 5000", "batching.max_batch (5000) is above queue.items (4096)"),
        ("[queue]\ncost = 100", "batching.max_batch_cost (256.0) is above queue.cost (100.0)"),
        ("[limits]\ninputs = 5000", "limits.inputs (5000) is above queue.items (4096)"),
        ("[queue]\nbytes = 1000", "limits.message_bytes (67108864) is above queue.bytes (1000)"),
        ("[long_work]\ncall_cost = 1e7", "long_work.call_cost (10000000.0) is above long_work.queue_cost (8000000.0)"),
        ("[queue]\nbulk_share = 1.0", "queue.bulk_share"),
        ("[worker]\nrestart_backoff_seconds = 31", "worker.restart_backoff_seconds (31.0) is above"),
        ("[server", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(toml(tmp_path, text))
    assert message in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(toml(tmp_path, "[server]\nport = -1\n[queue]\nitems = 0\n[limits]\nx = 1\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WHYLIGHT_SEVER__PORT", "1", "WHYLIGHT_SEVER__PORT: there is no section 'sever'; did you mean 'server'?"),
        ("WHYLIGHT_SERVER__PROT", "1", "server.prot: unknown setting; did you mean 'port'?"),
        ("WHYLIGHT_MODELS", "resnet50", "written as JSON"),
        ("WHYLIGHT_SERVER__PORT", "many", "server.port: "),
    ],
)
def test_a_variable_that_is_wrong_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert message in str(caught.value)


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHYLIGHT_NATIVE", "0")
    assert load_settings().server.port == 50051


def test_every_setting_is_described():
    def bare(schema, place=""):
        for name, field in schema.get("properties", {}).items():
            if not field.get("description"):
                yield f"{place}.{name}"

    schema = Settings.model_json_schema()
    silent = [*bare(schema), *(name for title, part in schema["$defs"].items() for name in bare(part, title))]
    assert silent == []


def test_the_page_is_up_to_date():
    script = ROOT / "scripts" / "generate_configuration_page.py"
    run = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_front_end_and_settings_load_neither_torch_nor_plugins():
    code = (
        "import sys, whylight.rpc.server, whylight.serve, whylight.settings;"
        "print(sorted({'torch', 'torchvision', 'whylight_cam', 'whylight_gradients'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_decoding_on_a_gpu_without_one_is_refused_with_the_reason(tmp_path: Path):
    assert load_settings().worker.gpu_decode is False
    with pytest.raises(ConfigurationError, match="gpu_decode needs a GPU for each worker"):
        load_settings(toml(tmp_path, "[worker]\ngpu_decode = true\ndevices = ['cuda:0', 'cpu']\n"))
    assert load_settings(toml(tmp_path, "[worker]\ngpu_decode = true\ndevices = ['cuda:0']\n")).worker.gpu_decode


def test_one_stream_of_single_pictures_may_feed_both_batches_of_a_worker() -> None:
    settings = Settings()
    assert settings.server.stream_window >= OUTSTANDING * settings.batching.max_batch
