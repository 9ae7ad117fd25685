"""A conversation with a server by tritonclient; exits 1 at the first thing that does not hold.

Usage: python triton_conversation.py HOST:PORT MODEL, MODEL being a server's name for tiny networks of five classes.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8)


def tensor(name, array, datatype):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def pictures():
    return [tensor("IMAGE", PICTURES, "UINT8")]


def says(what, holds):
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return error.status(), error.message()
    return "no error", ""


def health(client, model):
    says("the server is live", client.is_server_live())
    says("the server is ready", client.is_server_ready())
    says("MODEL.METHOD is ready", client.is_model_ready(f"{model}.grad-cam"))
    says("a model that is not there is not ready", not client.is_model_ready("nobody.grad-cam"))
    says("a method that the model cannot serve is not ready", not client.is_model_ready(f"{model}.attention-rollout"))


def metadata(client, model):
    says("the server names itself", client.get_server_metadata().name == "whylight")
    described = client.get_model_metadata(f"{model}.grad-cam")
    inputs = {one.name: (one.datatype, list(one.shape)) for one in described.inputs}
    says("metadata has the picture as UINT8", inputs["IMAGE"] == ("UINT8", [-1, -1, -1, 3]))
    says("metadata has the map", "MAP" in {one.name for one in described.outputs})
    config = client.get_model_config(f"{model}.grad-cam").config
    says("the configuration has a maximum batch size", config.max_batch_size > 0)
    says("the configuration says that pictures are optional", all(one.optional for one in config.input))
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    says("the index lists what can be asked", index[f"{model}.grad-cam"] == "READY")


def inference(client, model):
    name = f"{model}.grad-cam"
    plain = client.infer(name, pictures(), request_id="seven")
    maps = plain.as_numpy("MAP")
    says("a batch of raw UINT8 has one map each", maps.shape[:2] == (2, 1) and maps.dtype == np.float32)
    says("a map is not empty", float(np.ptp(maps)) > 0)
    says("the id comes back", plain.get_response().id == "seven")
    says("predictions are ordered", bool((np.diff(plain.as_numpy("PREDICTED_SCORE")) <= 0).all()))
    zipped = client.infer(name, pictures(), compression_algorithm="gzip")
    says("gzip gives the same bits", zipped.as_numpy("MAP").tobytes() == maps.tobytes())
    alone = client.infer(name, [tensor("IMAGE", PICTURES[1], "UINT8")])
    says("a picture without a batch gives the same bits", alone.as_numpy("MAP")[0].tobytes() == maps[1].tobytes())
    several = client.infer(name, [*pictures(), tensor("TARGET", np.array([[0, 1], [2, 3]], np.int64), "INT64")])
    says("a tensor of targets", several.as_numpy("TARGET_INDEX").tolist() == [[0, 1], [2, 3]])
    outputs = [triton.InferRequestedOutput(output) for output in ("OVERLAY", "BOXES", "EXPLANATION")]
    drawn = client.infer(name, pictures(), outputs=outputs, parameters={"target": 2, "option.profile": "captum"})
    says("an overlay is a PNG", drawn.as_numpy("OVERLAY")[0, 0].startswith(b"\x89PNG"))
    says("options are in force", b'"profile": "captum"' in drawn.as_numpy("EXPLANATION")[0, 0])
    file = client.infer(name, [tensor("IMAGE_FILE", np.array([drawn.as_numpy("OVERLAY")[0, 0]], object), "BYTES")])
    says("an encoded picture as BYTES", file.as_numpy("MAP").shape[:2] == (1, 1))
    ready = np.random.default_rng(1).standard_normal((2, 3, 64, 96)).astype(np.float32)
    says(
        "the model's own input as FP32",
        client.infer(name, [tensor("MODEL_INPUT", ready, "FP32")]).as_numpy("MAP").shape[0] == 2,
    )
    seeded = [client.infer(f"{model}.smoothgrad", pictures(), parameters={"seed": 5}) for _ in range(2)]
    says("a seed makes chance repeatable", len({one.as_numpy("MAP").tobytes() for one in seeded}) == 1)
    counted = client.get_inference_statistics(name).model_stats[0]
    says("statistics count inputs and batches", counted.inference_count > counted.execution_count > 0)
    says("priority and timeout are taken", client.infer(name, pictures(), priority=1, timeout=60_000_000) is not None)


def errors(client, model):
    name = f"{model}.grad-cam"
    for what, arguments, named, status, text in (
        ("an unknown parameter", (name, pictures()), {"parameters": {"colour": 1}}, "INVALID_ARGUMENT", "'colour'"),
        ("an unknown option", (name, pictures()), {"parameters": {"option.layr": "x"}}, "INVALID_ARGUMENT", "layr"),
        ("a class there is not", (name, pictures()), {"parameters": {"target": 99}}, "INVALID_ARGUMENT", "99"),
        ("a model there is not", ("nobody.grad-cam", pictures()), {}, "NOT_FOUND", "nobody"),
        ("a method there is not", (f"{model}.no-cam", pictures()), {}, "NOT_FOUND", "no-cam"),
        ("a version there is not", (name, pictures(), "77"), {}, "NOT_FOUND", "77"),
        ("a timeout of a microsecond", (name, pictures()), {"timeout": 1}, "DEADLINE_EXCEEDED", "deadline"),
        ("a sequence", (name, pictures()), {"sequence_id": 1}, "INVALID_ARGUMENT", "sequence"),
        (
            "an output there is not",
            (name, pictures()),
            {"outputs": [triton.InferRequestedOutput("LOGITS")]},
            "INVALID_ARGUMENT",
            "LOGITS",
        ),
    ):
        code, message = refusal(client.infer, *arguments, **named)
        says(f"{what} is {status}, and the message names it", code == f"StatusCode.{status}" and text in message)
    for call in (client.get_trace_settings, client.get_log_settings, client.get_cuda_shared_memory_status):
        says(f"{call.__name__} is UNIMPLEMENTED", refusal(call)[0] == "StatusCode.UNIMPLEMENTED")


def stream(client, model):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number, name in enumerate((f"{model}.grad-cam", "nobody", f"{model}.saliency")):
        client.async_stream_infer(name, pictures(), request_id=str(number), enable_empty_final_response=True)
    first, second, third = (answers.get(timeout=60) for _ in range(3))
    client.stop_stream()
    ids = [result and result.get_response().id for result, _ in (first, third)]
    says("a stream answers in the order of its requests", ids == ["0", "2"])
    says("an error in a stream is of its request, and the stream goes on", "MODEL_NOT_FOUND" in second[1].message())
    final = [result.get_response().parameters["triton_final_response"].bool_param for result, _ in (first, third)]
    says("every answer is marked final where it was asked for", final == [True, True])


def main(address, model):
    with triton.InferenceServerClient(address) as client:
        for part in (health, metadata, inference, errors, stream):
            print(f"-- {part.__name__}", flush=True)
            part(client, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
