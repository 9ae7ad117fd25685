"""Answers that a real server keeps: for equal questions only, with the bits of a fresh one, never over new weights.

A cache whose key is the inputs alone, as Triton's is, fails all of these. (serving.md 2.2, pitfall 9.)
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_real_server_models import Site, net, site, write_file

from whylight.testing.server import RunningServer
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import dict_to_struct

KEEPING = {"response_cache": {"bytes": 2**22}, "metrics": {"port": 0}, "batching": {"max_batch": 4}}


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("keeping"), net(0), **KEEPING) as running:
        yield running


def picture(number: int) -> v1.Input:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return v1.Input(tensor=v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=pixels.shape, data=pixels.tobytes()))


def request(*numbers: int, method: str = "smoothgrad", seed: int | None = None, **options: Any) -> v1.ExplainRequest:
    if method == "smoothgrad":
        options = {"samples": 2, **options}
    call = v1.MethodCall(name=method, options=dict_to_struct(options), seed=seed)
    return v1.ExplainRequest(methods=[call], inputs=[picture(number) for number in numbers])


def kept(answer: v1.ExplainResponse) -> list[bool]:
    return [result.explained.explanations[0].execution.cached for result in answer.results]


def maps(answer: v1.ExplainResponse) -> list[bytes]:
    return [result.explained.explanations[0].artifacts[0].tensor.data for result in answer.results]


def lookups(server: RunningServer) -> dict[str, float]:
    found = re.search(r"metrics at ([^\s\"]+)", server.log)
    assert found
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    name = "whylight_response_cache_lookups_total"
    return {one.labels["result"]: one.value for family in families for one in family.samples if one.name == name}


def test_an_equal_question_has_the_bits_of_its_first_answer_and_is_no_work(keeping: Site) -> None:
    before = lookups(keeping.server)
    first = keeping.stub.Explain(request(0, 1, method="grad-cam"), timeout=60)
    again = keeping.stub.Explain(request(1, 2, 0, method="grad-cam"), timeout=60)
    assert (kept(first), kept(again)) == ([False] * 2, [True, False, True])
    assert maps(again)[0] == maps(first)[1]
    assert maps(again)[2] == maps(first)[0]
    for old, new in ((first.results[1], again.results[0]), (first.results[0], again.results[2])):
        old, new = (
            v1.InputResult.FromString(old.SerializeToString()),
            v1.InputResult.FromString(new.SerializeToString()),
        )
        new.explained.explanations[0].execution.cached = False
        assert old == new, "all of it, the times of that day included"
    after = lookups(keeping.server)
    assert {key: after[key] - before[key] for key in after} == {"hit": 2, "miss": 3}


def test_chance_without_a_seed_is_drawn_anew_each_time(keeping: Site) -> None:
    before = lookups(keeping.server)
    first, again = (keeping.stub.Explain(request(3), timeout=60) for _ in range(2))
    assert kept(first) == kept(again) == [False]
    assert maps(first) != maps(again)
    drawn = [answer.results[0].explained.explanations[0].seed for answer in (first, again)]
    assert drawn[0] != drawn[1]
    assert lookups(keeping.server) == before, "it was not even looked for"
    # And who asks for the seed that was drawn gets those bits, of a fresh run.
    asked = keeping.stub.Explain(request(3, seed=drawn[0]), timeout=60)
    assert (kept(asked), maps(asked)) == ([False], maps(first))


def test_chance_with_a_seed_is_kept_for_that_seed(keeping: Site) -> None:
    first = keeping.stub.Explain(request(4, seed=1), timeout=60)
    same, other = (keeping.stub.Explain(request(4, seed=seed), timeout=60) for seed in (1, 2))
    assert (kept(first), kept(same), kept(other)) == ([False], [True], [False])
    assert maps(first) == maps(same) != maps(other)


def test_one_method_of_chance_without_a_seed_keeps_none_of_its_call(keeping: Site) -> None:
    sent = request(5, method="grad-cam")
    sent.methods.append(request(5).methods[0])
    answers = [keeping.stub.Explain(sent, timeout=60) for _ in range(2)]
    assert kept(answers[0]) == kept(answers[1]) == [False]


def changes() -> dict[str, Callable[[v1.ExplainRequest], Any]]:
    return {
        "picture": lambda sent: sent.inputs[0].CopyFrom(picture(7)),
        "method": lambda sent: sent.methods[0].CopyFrom(v1.MethodCall(name="saliency")),
        "option": lambda sent: sent.methods[0].options.update({"profile": "captum"}),
        "target": lambda sent: sent.targets.add(class_index=1),
        "outputs": lambda sent: sent.outputs.add(map=v1.MapOutput(canvas=v1.CANVAS_ORIGINAL)),
        "predictions": lambda sent: setattr(sent, "top_predictions", 1),
    }


@pytest.mark.parametrize("what", changes())
def test_whatever_differs_is_another_question(keeping: Site, what: str) -> None:
    sent = request(6, method="grad-cam")
    keeping.stub.Explain(sent, timeout=60)
    assert kept(keeping.stub.Explain(sent, timeout=60)) == [True]
    changes()[what](sent)
    assert kept(keeping.stub.Explain(sent, timeout=60)) == [False]


def test_after_a_reload_no_answer_is_of_the_old_weights(tmp_path: Path) -> None:
    with site(tmp_path, net(0), **KEEPING) as running:
        before = running.stub.Explain(request(0, method="grad-cam"), timeout=60)
        assert kept(running.stub.Explain(request(0, method="grad-cam"), timeout=60)) == [True]
        write_file(running.file, net(1))
        running.change("Reload")
        after = running.stub.Explain(request(0, method="grad-cam"), timeout=60)
        assert kept(after) == [False]
        assert after.model_digest != before.model_digest
        assert maps(after) != maps(before)
        write_file(running.file, net(0))
        running.change("Reload")
        back = running.stub.Explain(request(0, method="grad-cam"), timeout=60)
        assert (back.model_digest, maps(back)) == (before.model_digest, maps(before)), "kept or not, it is the same"
