"""Sends a server spoiled requests, of every call, on the wire: none may crash it, make it grow, or be told too little.

Requests are seeds (`fuzz_seeds.py`) of which fields or bytes were changed (`fuzz_mutations.py`); some are not even sent
as gRPC wants it. A run is the same for the same ``--seed``. The exit code is 1 when

* an answer is no typed one: a status without an ErrorInfo of ours, an internal error, a status UNKNOWN;
* a process of the server ended or was replaced, or the log has an error that nothing expected;
* a sound request, asked again and again in between, no longer has the same bytes for an answer;
* after the first fifth of the run memory grew by 5 % or more, or file descriptors or threads did.

``--json FILE`` keeps the numbers, ``--keep FOLDER`` the requests that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import rich
from environment import describe
from fuzz_framing import send_misframed
from fuzz_mutations import spoil_bytes, spoil_message
from fuzz_seeds import EXPLANATION, Seed, inputs, method, seeds
from google.rpc import error_details_pb2, status_pb2
from watching import HELD, Watch, growth

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1

SERVER: dict[str, Any] = {
    "models": [{"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}],
    "worker": {"devices": ["cpu"], "threads": 1},
    "limits": {
        "message_bytes": 2**20,
        "inputs": 8,
        "image_pixels": 2**18,
        "tensor_elements": 2**18,
        "targets": 8,
        "methods": 4,
        "synthesis_pixels": 2**12,
    },
    "queue": {"cost": 4096.0, "bytes": 2**26},
    "batching": {"max_batch_cost": 64.0},
    "server": {"log_level": "warning"},
}
"""Small limits: what is beyond them must be refused, and what is within them must be quick."""

GROWTH = 0.05
SHORT = 20_000
"""Requests below which a run is a warm-up in the main, in which memory and threads may grow by half."""

LATE_THREADS = 0.25
"""A thread of a pool begins when the first work for it comes, which may be late in a run."""

NOT_OURS = re.compile(
    r"^.*ERROR grpc\._cython\.cygrpc .*ExecuteBatchError raised in core.*(?:\n.*)*?\n\S*ExecuteBatchError.*$"
    r"|^.*ERROR grpc\._cython\.cygrpc .*Invalid encoding on .*(?:\n.*)*?\nUnicodeDecodeError.*$",
    re.M,
)
"""gRPC's own notes: a client was gone before its status could be sent, a header is no UTF-8."""

UNEXPECTED = re.compile(r"nothing expects|^Traceback")

DEADLINE = 30.0
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
MISFRAMED = 0.02
"""Share of requests that are not sent as gRPC wants it."""


class Run:
    """One run against one server: what was sent, and what came of it."""

    def __init__(self, server: RunningServer, seed: int, keep: Path | None) -> None:
        self.server = server
        self.blocking = grpc.insecure_channel(server.address, OPTIONS)
        self.chance = random.Random(seed)
        self.keep = keep
        self.seeds = seeds()
        self.weights = [seed.weight for seed in self.seeds]
        self.messages = [seed.message for seed in self.seeds]
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.sound: bytes | None = None

    def next_request(self) -> tuple[Seed, list[bytes]]:
        """Return the next call and what it sends."""
        seed = self.chance.choices(self.seeds, self.weights)[0]
        return seed, [self._spoiled(seed) for _ in range(self.chance.choice((1, 1, 2, 3)) if seed.streams else 1)]

    def _spoiled(self, seed: Seed) -> bytes:
        how = self.chance.random()
        message = type(seed.message)()
        message.CopyFrom(seed.message)
        if how < 0.6:
            for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
                spoil_message(message, self.chance, self.messages)
        data = message.SerializeToString()
        if how > 0.5:
            data = spoil_bytes(data, self.chance, self.chance.choice(self.messages).SerializeToString())
        return data

    async def send(self, channel: grpc.aio.Channel, number: int, seed: Seed, requests: list[bytes]) -> None:
        """Send one call and look at its answer."""
        answers: list[bytes] = []
        try:
            if seed.streams:
                # The blocking API: where a server ends a stream that is still written, the other loses the status.
                call = self.blocking.stream_stream(seed.path)
                answers += await asyncio.to_thread(lambda: list(call(iter(requests), timeout=DEADLINE)))
            elif seed.answers:
                async for answer in channel.unary_stream(seed.path)(requests[0], timeout=DEADLINE):
                    answers.append(answer)
            else:
                answers.append(await channel.unary_unary(seed.path)(requests[0], timeout=DEADLINE))
            code, reason = "OK", ""
        except grpc.RpcError as error:
            code, reason = error.code().name, reason_of(error)
        self.outcomes[f"{code} {reason}".strip()] += 1
        self.calls[seed.path.rpartition("/")[2]] += 1
        wrong = [] if is_typed(code, reason) else [f"{code} {reason}"]
        for inner in inner_reasons(seed.path, answers):
            self.outcomes[f"within an answer: {inner}"] += 1
            if inner == "INTERNAL":
                wrong.append("an internal error within an answer")
        if wrong:
            self._fail(number, seed, requests, wrong)

    def _fail(self, number: int, seed: Seed, requests: list[bytes], wrong: list[str]) -> None:
        self.failures.append({"number": number, "path": seed.path, "wrong": wrong})
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{number}.txt").write_text("\n".join(wrong) + "\n")
            for index, request in enumerate(requests):
                name = f"{number}-{index}-{seed.path.rpartition('/')[2]}.bin"
                (self.keep / name).write_bytes(request)

    async def check_sound(self, channel: grpc.aio.Channel) -> None:
        """Ask what is in order, and see that the answer is what it was."""
        request = v1.ExplainRequest(
            methods=[method("grad-cam")], inputs=inputs()[2:3], targets=[v1.Target(class_index=1)]
        )
        call = channel.unary_unary(EXPLANATION + "Explain")
        for _ in range(100):  # the queue may be full of what was sent before
            try:
                answer = v1.ExplainResponse.FromString(await call(request.SerializeToString(), timeout=60))
                break
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.1)
        numbers = answer.results[0].explained.explanations[0].artifacts[0].tensor.data
        if self.sound is None:
            self.sound = numbers
        if not numbers or numbers != self.sound:
            self.failures.append({"path": "Explain", "wrong": ["a sound request has another answer than before"]})


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason of our ErrorInfo, or in its absence gRPC's own words in parentheses."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "whylight":
                    return info.reason
    return f"({(error.details() or '')[:60]})"


def is_typed(code: str, reason: str) -> bool:
    """Say whether a client has been told what it needs."""
    if code == "OK":
        return True
    if reason.startswith("("):  # gRPC itself: the message is too large, or our own deadline was over
        return "larger than max" in reason or code == "DEADLINE_EXCEEDED"
    return reason != "INTERNAL"


def inner_reasons(path: str, answers: list[bytes]) -> list[str]:
    """Return the reasons of the errors that are in answers."""
    found: list[Any] = []
    for data in answers:
        if path.endswith("/Explain"):
            found += [result.error for result in v1.ExplainResponse.FromString(data).results]
        elif path.endswith("/Evaluate"):
            found += [result.error for result in v1.EvaluateResponse.FromString(data).results]
        elif path.endswith("/StreamExplain"):
            answer = v1.StreamExplainResponse.FromString(data)
            found += [answer.error, answer.refused, *(result.error for result in answer.response.results)]
        elif path.endswith("/Synthesize"):
            found.append(v1.SynthesizeResponse.FromString(data).result.error)
    return [error.reason for error in found if error.reason]


async def fuzz(run: Run, requests: int, concurrency: int, every: int) -> None:
    """Send so many requests, so many at once."""
    places = asyncio.Semaphore(concurrency)
    async with grpc.aio.insecure_channel(run.server.address, OPTIONS) as channel:

        async def one(number: int, seed: Seed, messages: list[bytes], misframed: int | None) -> None:
            try:
                if misframed is None:
                    await run.send(channel, number, seed, messages)
                else:
                    run.outcomes[
                        f"misframed: {await send_misframed(run.server.address, seed, messages, misframed)}"
                    ] += 1
            finally:
                places.release()

        tasks: set[asyncio.Task[None]] = set()
        for number in range(requests):
            await places.acquire()
            misframed = run.chance.randrange(2**32) if run.chance.random() < MISFRAMED else None
            task = asyncio.ensure_future(one(number, *run.next_request(), misframed))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            run.sent += 1
            if number % every == 0:
                await run.check_sound(channel)
                print(f"{number} of {requests}, {len(run.failures)} failed", file=sys.stderr, flush=True)
        await asyncio.gather(*tasks)
        await run.check_sound(channel)


def main() -> int:
    """Fuzz, print, and say whether all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=48)
    parser.add_argument("--json", type=Path, help="file to keep the numbers in")
    parser.add_argument("--keep", type=Path, help="folder for the requests that failed")
    arguments = parser.parse_args()
    began = time.monotonic()
    with running_server(**SERVER) as server, Watch(server.pid, 0.5) as watch:
        pids = watch.pids
        run = Run(server, arguments.seed, arguments.keep)
        asyncio.run(fuzz(run, arguments.requests, arguments.concurrency, max(50, arguments.requests // 100)))
        watch.sample()
        same = watch.alive() == pids
        log = server.log
    unexpected = [line for line in NOT_OURS.sub("", log).splitlines() if UNEXPECTED.search(line)]
    steady = watch.samples[len(watch.samples) // 5 :]
    grown = {process: {held: growth(steady, process, held) for held in HELD} for process in ("front end", "worker")}
    facts = {
        "environment": describe("grpcio", "protobuf", "pillow"),
        "seed": arguments.seed,
        "requests": run.sent,
        "seconds": round(time.monotonic() - began, 1),
        "calls": dict(run.calls.most_common()),
        "outcomes": dict(run.outcomes.most_common()),
        "failures": run.failures[:50],
        "failed": len(run.failures),
        "same processes": same,
        "unexpected log lines": len(unexpected),
        "growth": grown,
        "rss MiB": {
            process: [round(sample[process]["rss"] / 2**20) for sample in thinned(watch.samples)]
            for process in ("front end", "worker")
        },
    }
    rich.print(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    if arguments.keep and log:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        (arguments.keep / "server.log").write_text(log)
    short = run.sent < SHORT
    allowed = {"rss": 0.5 if short else GROWTH, "threads": 0.5 if short else LATE_THREADS, "descriptors": 0.2}
    flat = all(one[held] <= most for one in grown.values() for held, most in allowed.items())
    return 0 if flat and same and not run.failures and not unexpected else 1


def thinned(samples: list[dict[str, Any]], most: int = 60) -> list[dict[str, Any]]:
    """Return at most so many of the samples."""
    return samples[:: max(1, -(-len(samples) // most))]


if __name__ == "__main__":
    sys.exit(main())
