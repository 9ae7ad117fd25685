"""``whylight synthesize`` and ``whylight inspect`` against a real server: what is printed and written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "rpc"))  # the plugin lives with the server's tests

from test_real_server_long import serving

from whylight.testing.server import RunningServer


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("long")) as running:
        yield running


def test_one_target_gives_a_file_and_its_course_a_gif(whylight_command, real: RunningServer, tmp_path: Path):
    out, gif = tmp_path / "made.png", tmp_path / "course.gif"
    done = whylight_command(
        "synthesize", "brightening", "--server", real.address, "-t", 700, "-o", out, "--gif", gif, "--every", 2,
        "--size", "48x32", "--seed", 3, "--json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    with Image.open(out) as made:
        assert made.size == (48, 32)
    with Image.open(gif) as course:
        assert (course.size, course.n_frames) == ((48, 32), 2)
    answer = json.loads(done.out)
    assert answer["courses"] == [str(gif)]
    (result,) = answer["results"]
    assert result["explanations"][0]["seed"] == 3
    assert "map_min" not in result["explanations"][0], "there is no map"
    assert len(result["predictions"]) == 5


def test_several_targets_give_a_folder_and_a_failure_an_exit_code(
    whylight_command, real: RunningServer, tmp_path: Path
):
    options = ("-O", "fail_at=1", "-O", "fail_class=2")
    done = whylight_command(
        "synthesize", "brightening", "--server", real.address, "-t", 1, "-t", 2, "-o", tmp_path / "made", *options
    )
    assert done.code == 1
    assert "METHOD_FAILED" in done.err
    assert len(list((tmp_path / "made").iterdir())) == 1


def test_people_are_told_the_checks_where_there_is_no_map(whylight_command, real: RunningServer):
    done = whylight_command("synthesize", "brightening", "--server", real.address, "-t", 1)
    assert (done.code, done.err) == (0, "")
    assert "checks" in done.out
    assert re.search(r"mean 0\.\d+", done.out)
    assert " … " not in done.out


def test_what_is_named_for_work_here_is_no_matter_of_a_server(whylight_command, real: RunningServer):
    for arguments in (("synthesize", "brightening", "--other", "a=vae:128"), ("inspect", "x", "--data-set", "a=/b")):
        done = whylight_command(*arguments, "--server", real.address)
        assert done.code == 2
        assert "a server has its own" in done.err
    done = whylight_command("inspect", "x", "--data-set", "photos")
    assert (done.code, "'photos' is not NAME=PATH" in done.err) == (2, True)


def test_a_missing_target_is_told(whylight_command, real: RunningServer):
    done = whylight_command("synthesize", "brightening", "--server", real.address)
    assert done.code == 1
    assert done.err.startswith("whylight: targets:")


def test_an_inspection_prints_tables_and_saves_arrays(whylight_command, real: RunningServer, picture, tmp_path: Path):
    done = whylight_command("inspect", "counting", picture, "--server", real.address, "-o", tmp_path / "seen")
    assert (done.code, done.err) == (0, "")
    assert "picture" in done.out
    assert "array [1] float32" in done.out
    assert (tmp_path / "seen" / "means.npy").exists()
    done = whylight_command("inspect", "counting", "--server", real.address, "--json")
    table, points = json.loads(done.out)["artifacts"][1:]
    assert table["columns"] == ["index", "kind"]
    assert points["points"] == [{"x": 1.0, "y": 2.0, "label": "a"}]
