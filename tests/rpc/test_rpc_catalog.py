"""CatalogService: lists, pages, and what is not there."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpc_serving import Served, failure_of

import whylight
from whylight.errors import InvalidInput
from whylight.rpc.pages import page
from whylight.v1 import catalog_pb2 as v1
from whylight.v1 import catalog_pb2_grpc


def stub(served: Served) -> catalog_pb2_grpc.CatalogServiceStub:
    return catalog_pb2_grpc.CatalogServiceStub(served.channel)


def named(*names: str) -> list[v1.Plugin]:
    return [v1.Plugin(name=name) for name in sorted(names)]


@given(
    names=st.sets(st.text(min_size=1, max_size=5), max_size=30),
    size=st.integers(min_value=1, max_value=10),
)
def test_pages_together_are_the_list(names: set[str], size: int):
    things, token, seen = named(*names), "", []
    while True:
        part, token = page(things, size, token, kind="plugins")
        assert len(part) <= size
        seen += [thing.name for thing in part]
        if not token:
            break
    assert seen == sorted(names)


def test_a_list_that_changes_between_pages_neither_repeats_nor_skips():
    first, token = page(named("b", "d", "f"), 2, "", kind="plugins")
    rest, end = page(named("a", "d", "e", "f"), 2, token, kind="plugins")
    assert [thing.name for thing in first] == ["b", "d"]
    assert [thing.name for thing in rest] == ["e", "f"]
    assert end == ""


@given(token=st.text(min_size=1, max_size=30))
def test_a_token_of_another_is_refused(token: str):
    with pytest.raises(InvalidInput) as caught:
        page(named("a"), 0, token, kind="plugins")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_token_of_another_list_is_refused():
    _, token = page(named("a", "b"), 1, "", kind="models")
    with pytest.raises(InvalidInput):
        page(named("a", "b"), 1, token, kind="methods")


def test_page_sizes_have_a_default_and_a_bound():
    things = named(*(f"{number:04}" for number in range(1500)))
    assert len(page(things, 0, "", kind="x")[0]) == 100
    assert len(page(things, 10**6, "", kind="x")[0]) == 1000
    with pytest.raises(InvalidInput):
        page(things, -1, "", kind="x")


async def test_methods_are_listed_without_and_got_with_their_schemas(served: Served):
    served.engine.catalog.methods[1].options_schema.update({"type": "object"})
    first = await stub(served).ListMethods(v1.ListMethodsRequest(page_size=2))
    second = await stub(served).ListMethods(v1.ListMethodsRequest(page_size=2, page_token=first.next_page_token))
    assert [method.name for method in (*first.methods, *second.methods)] == ["cam", "grad-cam", "saliency"]
    assert not any(method.HasField("options_schema") for method in first.methods)
    got = await stub(served).GetMethod(v1.GetMethodRequest(name="grad-cam"))
    assert got.method.options_schema["type"] == "object"


async def test_models_are_listed_without_and_got_with_labels_and_layers(served: Served):
    listed = await stub(served).ListModels(v1.ListModelsRequest())
    assert [(model.name, model.default, len(model.labels)) for model in listed.models] == [
        ("one", True, 0),
        ("two", False, 0),
    ]
    got = await stub(served).GetModel(v1.GetModelRequest(name="two"))
    assert (list(got.model.labels), got.model.layers[0].name, got.model.default) == (["cat", "dog"], "conv", False)


async def test_a_model_without_a_name_is_the_default_one(served: Served):
    got = await stub(served).GetModel(v1.GetModelRequest())
    assert (got.model.name, got.model.default) == ("one", True)


async def test_plugins_are_listed(served: Served):
    listed = await stub(served).ListPlugins(v1.ListPluginsRequest())
    assert [plugin.name for plugin in listed.plugins] == ["cam"]


async def test_the_server_tells_about_itself(served: Served):
    info = await stub(served).GetServerInfo(v1.GetServerInfoRequest())
    assert (info.version, info.native_operators, list(info.devices)) == (
        whylight.__version__,
        "no (a test)",
        ["cpu"],
    )
    assert info.limits == v1.Limits(
        message_bytes=64 * 2**20,
        inputs=256,
        image_pixels=64 * 2**20,
        tensor_elements=64 * 2**20,
        targets=64,
        outputs=16,
        options_bytes=64 * 2**10,
        methods=16,
        synthesis_pixels=4 * 2**20,
    )
    assert info.start_time.seconds > 0


@pytest.mark.parametrize(
    ("call", "sent", "reason", "hint"),
    [
        ("GetMethod", v1.GetMethodRequest(name="gradcam"), "METHOD_NOT_FOUND", "'grad-cam'"),
        ("GetMethod", v1.GetMethodRequest(), "METHOD_NOT_FOUND", ""),
        ("GetModel", v1.GetModelRequest(name="onne"), "MODEL_NOT_FOUND", "'one'"),
    ],
)
async def test_what_is_not_there_is_named_with_what_is_close(served: Served, call, sent, reason: str, hint: str):
    failure = await failure_of(getattr(stub(served), call)(sent))
    assert (failure.code, failure.reason, failure.fields) == (grpc.StatusCode.NOT_FOUND, reason, ["name"])
    assert hint in failure.message


@pytest.mark.parametrize("call", ["ListMethods", "ListModels", "ListPlugins", "GetServerInfo"])
async def test_before_the_models_are_loaded_there_is_nothing_to_list(served: Served, call: str):
    served.engine.catalog = None
    failure = await failure_of(getattr(stub(served), call)(getattr(v1, f"{call}Request")()))
    assert (failure.code, failure.reason, failure.retry_seconds) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING", 2)
