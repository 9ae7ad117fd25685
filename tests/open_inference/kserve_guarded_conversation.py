"""A conversation by KServe's client with a server that wants TLS and tokens; exits 1 at what does not hold.

Usage: python kserve_guarded_conversation.py HOST:PORT MODEL CA EXPLAIN_TOKEN CATALOG_TOKEN
"""

import asyncio
import logging
import sys

import grpc
from kserve import InferenceGRPCClient
from kserve_conversation import array, request, says


async def refusal(work):
    try:
        await work
    except grpc.RpcError as error:
        return error.code().name
    return "no error"


async def main(address, model, ca, explain, catalog):
    name = f"{model}.grad-cam"
    async with InferenceGRPCClient(address, retries=0) as plain:
        says("plaintext is refused where TLS is required", await refusal(plain.is_server_live()) == "UNAVAILABLE")
    async with InferenceGRPCClient(address, use_ssl=True, root_certificates=ca, retries=0) as client:
        says("probes need no token", await client.is_server_ready() and await client.is_model_ready(name))
        for what, token, status in (
            ("a wrong token", "whylight_wrong", "UNAUTHENTICATED"),
            ("a token of another scope", catalog, "PERMISSION_DENIED"),
        ):
            code = await refusal(client.infer(request(name), headers=(("authorization", f"Bearer {token}"),)))
            says(f"inference with {what} is {status}", code == status)
        says(
            "inference without a token is UNAUTHENTICATED",
            await refusal(client.infer(request(name))) == "UNAUTHENTICATED",
        )
        answer = await client.infer(request(name), headers=(("authorization", f"Bearer {explain}"),))
        says("the right token explains", array(answer, "MAP").shape[0] == 2)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # KServe logs every error that it raises
    asyncio.run(main(*sys.argv[1:]))
