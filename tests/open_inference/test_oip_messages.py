"""The private pool: our names and numbers are the standard's, and nothing of them is in anybody's way."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from conversations import python_of
from google.protobuf import descriptor_pb2

from whylight.open_inference import messages as oip
from whylight.rpc.reflection import Pools

SOMEBODYS = """
from google.protobuf import descriptor_pb2, descriptor_pool
somebodys = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference", syntax="proto3")
somebodys.message_type.add(name="ModelInferRequest").field.add(name="other", number=9, type=9, label=1)
somebodys.service.add(name="GRPCInferenceService")
descriptor_pool.Default().Add(somebodys)
"""
OURS = """
import whylight.rpc.server
from whylight.open_inference.messages import ModelInferRequest, POOL
"""
CHECK = """
from google.protobuf import descriptor_pool
theirs = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
assert list(theirs.fields_by_name) == ["other"], list(theirs.fields_by_name)
assert ModelInferRequest(model_name="x").SerializeToString() == b"\\x0a\\x01x"
from whylight.rpc.reflection import Pools
both = Pools(POOL, descriptor_pool.Default())
assert both.FindFileContainingSymbol("inference.GRPCInferenceService").name == "whylight/open_inference/inference.proto"
assert both.FindFileContainingSymbol("whylight.v1.ExplanationService").name == "whylight/v1/explanation.proto"
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_leaves_the_default_pool_without_the_protocol():
    run(OURS + "from google.protobuf import descriptor_pool as p\ntry: p.Default().FindMessageTypeByName"
        "('inference.ModelInferRequest'); raise SystemExit('it is there')\nexcept KeyError: pass")  # fmt: skip


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_a_server_and_somebody_elses_file_of_the_protocol_live_in_one_process(first: str):
    run((SOMEBODYS + OURS if first == "theirs" else OURS + SOMEBODYS) + CHECK)


def test_what_is_in_no_pool_is_not_found():
    both = Pools(oip.POOL)
    with pytest.raises(KeyError):
        both.FindFileContainingSymbol("inference.Nobody")
    with pytest.raises(KeyError):
        both.FindFileByName("nobody.proto")


@pytest.fixture(scope="module")
def triton() -> str:
    if not python_of("tritonclient").exists():
        pytest.skip("tritonclient's environment is absent; scripts/check_open_inference_clients.sh makes it")
    code = "import tritonclient, pathlib; print(pathlib.Path(tritonclient.__file__).parents[1])"
    return subprocess.check_output([python_of("tritonclient"), "-c", code], text=True).strip()


def test_a_server_and_tritonclient_live_in_one_process(triton: str):
    """tritonclient comes from its own environment, everything else from ours."""
    run("import sys; sys.path.append(sys.argv[1])\n" + OURS + """
from tritonclient.grpc import service_pb2
theirs = service_pb2.ModelInferRequest(model_name="x", raw_input_contents=[b"1"])
theirs.parameters["seed"].int64_param = 3
ours = ModelInferRequest.FromString(theirs.SerializeToString())
assert ours.parameters["seed"].int64_param == 3 and list(ours.raw_input_contents) == [b"1"]
assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs
""", triton)  # fmt: skip


def test_names_numbers_and_types_are_those_of_tritonclient(triton: str):
    printed = run(
        "import sys, base64; sys.path.append(sys.argv[1])\n"
        "from tritonclient.grpc import model_config_pb2, service_pb2\n"
        "for one in (model_config_pb2, service_pb2): print(base64.b64encode(one.DESCRIPTOR.serialized_pb).decode())",
        triton,
    )
    theirs: dict[str, dict[str, tuple[object, ...]]] = {}
    for line in printed.split():
        theirs |= described(descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(line)))
    own = descriptor_pb2.FileDescriptorProto()
    oip.POOL.FindFileByName("whylight/open_inference/inference.proto").CopyToProto(own)
    ours = described(own)
    assert len(ours) > 30
    for name, members in ours.items():
        assert members.items() <= theirs[name].items(), name


def described(file: descriptor_pb2.FileDescriptorProto) -> dict[str, dict[str, tuple[object, ...]]]:
    """Every message, enum and service by name, with its members: what travels of them."""
    found: dict[str, dict[str, tuple[object, ...]]] = {}

    def walk(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        found[prefix + message.name] = {
            field.name: (field.number, field.type, field.label, field.type_name, field.HasField("oneof_index"))
            for field in message.field
        }
        for nested in message.nested_type:
            walk(nested, f"{prefix}{message.name}.")

    for message in file.message_type:
        walk(message, "")
    for enum in file.enum_type:
        found[enum.name] = {value.name: (value.number,) for value in enum.value}
    for service in file.service:
        found[service.name] = {
            method.name: (method.input_type, method.output_type, method.client_streaming, method.server_streaming)
            for method in service.method
        }
    return found
