"""A worker without torch that behaves as its config says: the first of its models is {"behaviour": ...}."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from whylight.engine import frames
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.config import WorkerConfig
from whylight.worker.v1 import worker_pb2


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--socket") + 1]))
    config = WorkerConfig.from_json(sys.stdin.read())
    script = config.models[0]
    match script["behaviour"]:
        case "refuse":
            failure = worker_pb2.StartFailure(message="there is no such model")
            frames.send(connection, worker_pb2.WorkerFrame(failure=failure))
            return
        case "exit":
            print("the last words", file=sys.stderr)
            sys.exit(3)
        case "garbage":
            connection.sendall(b"\xff" * 100)
            time.sleep(1000)
        case "silent":
            time.sleep(1000)
        case "once":
            mark = Path(script["mark"])
            if mark.exists():
                frames.send(connection, worker_pb2.WorkerFrame(failure=worker_pb2.StartFailure(message="only once")))
                return
            mark.touch()
        case "chatty":
            print("to stdout")
            print("to stderr", file=sys.stderr)
            print("x" * 20000 + "end")
        case "parent":
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
    facts = {"session": str(os.getsid(0)), "files": ",".join(sorted(os.listdir("/proc/self/fd"), key=int))}
    facts["told"] = ",".join(f"{name}={text}" for name, text in config.measured.items())
    models = [catalog_pb2.Model(name="m")]
    ready = worker_pb2.Ready(device="cpu", library_versions=facts, models=models, measured={"at-start": "a"})
    frames.send(connection, worker_pb2.WorkerFrame(ready=ready))
    while (frame := frames.receive(connection, worker_pb2.FrontEndFrame)) is not None:
        match frame.WhichOneof("body"):
            case "plan":
                reply = worker_pb2.PlanReply(request_id=frame.plan.request_id, cost=1.0)
                frames.send(connection, worker_pb2.WorkerFrame(plan=reply))
            case "batch":
                work(connection, frame.batch)
            case "load":
                loaded = worker_pb2.ModelLoaded(name=frame.load.name, generation=frame.load.generation)
                loaded.model.name = frame.load.name
                loaded.measured["at-load"] = "b"
                frames.send(connection, worker_pb2.WorkerFrame(loaded=loaded))
            case "drain":
                return


def work(connection: socket.socket, batch: worker_pb2.Batch) -> None:
    for item in batch.items:
        match item.input.image:
            case b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"hang":
                time.sleep(1000)
            case b"garbage":
                connection.sendall(b"\xff" * 100)
                time.sleep(1000)
        explained = v1.Explained(explanations=[v1.Explanation(target_label=item.input.image.decode())])
        result = worker_pb2.ItemResult(item_id=item.item_id, result=v1.InputResult(explained=explained))
        frames.send(connection, worker_pb2.WorkerFrame(result=result))
    frames.send(connection, worker_pb2.WorkerFrame(done=worker_pb2.BatchDone(batch_id=batch.batch_id)))


if __name__ == "__main__":
    main()
