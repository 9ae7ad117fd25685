"""A conversation with a server by KServe's client; exits 1 at the first thing that does not hold.

Usage: python kserve_conversation.py HOST:PORT MODEL, MODEL being a server's name for tiny networks of five classes.
"""

import asyncio
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8)


def request(model, inputs=None, **named):
    if inputs is None:
        image = InferInput("IMAGE", list(PICTURES.shape), "UINT8")
        image.set_data_from_numpy(PICTURES, binary_data=True)
        inputs = [image]
    return InferRequest(model_name=model, infer_inputs=inputs, **named)


def says(what, holds):
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def array(response, name):
    return next(output for output in response.outputs if output.name == name).as_numpy()


async def refusal(client, asked):
    try:
        await client.infer(asked)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "no error", ""


async def main(address, model):
    name = f"{model}.grad-cam"
    async with InferenceGRPCClient(address) as client:
        says("the server is live", await client.is_server_live())
        says("the server is ready", await client.is_server_ready())
        says("MODEL.METHOD is ready", await client.is_model_ready(name))
        says("a model that is not there is not ready", not await client.is_model_ready("nobody.grad-cam"))
        answer = await client.infer(request(name, request_id="seven"))
        maps = array(answer, "MAP")
        says("a batch of raw UINT8 has one map each", maps.shape[:2] == (2, 1) and float(np.ptp(maps)) > 0)
        says("the id comes back", answer.id == "seven")
        ready = np.random.default_rng(1).standard_normal((1, 3, 32, 48)).astype(np.float32)
        typed = InferInput("MODEL_INPUT", list(ready.shape), "FP32", data=ready.ravel().tolist())
        raw = InferInput("MODEL_INPUT", list(ready.shape), "FP32")
        raw.set_data_from_numpy(ready, binary_data=True)
        both = [array(await client.infer(request(name, [one])), "MAP").tobytes() for one in (typed, raw)]
        says("typed contents give the bits of raw contents", both[0] == both[1])
        wanted = [RequestedOutput("OVERLAY", {"format": "jpeg", "opacity": "0.3"}), RequestedOutput("TARGET_INDEX")]
        asked = request(name, request_outputs=wanted, parameters={"target": 2, "options": '{"profile": "captum"}'})
        drawn = await client.infer(asked)
        says("requested outputs with parameters", bytes(array(drawn, "OVERLAY").ravel()[0]).startswith(b"\xff\xd8"))
        says("a target by a parameter", array(drawn, "TARGET_INDEX").ravel().tolist() == [2, 2])
        says("the model's digest comes with the answer", "model_digest" in drawn.parameters)
        code, text = await refusal(client, request(name, parameters={"colour": 1}))
        says("an unknown parameter is INVALID_ARGUMENT", code == "INVALID_ARGUMENT" and "'colour'" in text)
        code, text = await refusal(client, request("nobody.grad-cam"))
        says("a model there is not is NOT_FOUND", code == "NOT_FOUND" and "nobody" in text)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # KServe logs every error that it raises
    asyncio.run(main(*sys.argv[1:]))
