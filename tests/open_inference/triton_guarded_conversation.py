"""A conversation by tritonclient with a server that wants TLS and tokens; exits 1 at what does not hold.

Usage: python triton_guarded_conversation.py HOST:PORT MODEL CA EXPLAIN_TOKEN CATALOG_TOKEN
"""

import sys

import tritonclient.grpc as triton
from triton_conversation import pictures, refusal, says


def bearing(token):
    return {"headers": {"authorization": f"Bearer {token}"}}


def main(address, model, ca, explain, catalog):
    name = f"{model}.grad-cam"
    with triton.InferenceServerClient(address) as plain:
        code, message = refusal(plain.is_server_live)
        says("plaintext is refused where TLS is required", code == "StatusCode.UNAVAILABLE")
    with triton.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
        says("probes need no token", client.is_server_ready() and client.is_model_ready(name))
        for what, named, status in (
            ("without a token", {}, "UNAUTHENTICATED"),
            ("with a wrong token", bearing("whylight_wrong"), "UNAUTHENTICATED"),
            ("with a token of another scope", bearing(catalog), "PERMISSION_DENIED"),
        ):
            code, message = refusal(client.infer, name, pictures(), **named)
            says(f"inference {what} is {status}", code == f"StatusCode.{status}")
            says(
                "and the message names no model, no path and no token", model not in message and catalog not in message
            )
        code, _ = refusal(client.get_model_metadata, name, **bearing(explain))
        says("metadata with a token of another scope is PERMISSION_DENIED", code == "StatusCode.PERMISSION_DENIED")
        says("the right token explains", client.infer(name, pictures(), **bearing(explain)).as_numpy("MAP") is not None)
        says("the right token describes", client.get_model_metadata(name, **bearing(catalog)).name == name)


if __name__ == "__main__":
    main(*sys.argv[1:])
