"""One client process: ``python -m whylight.cli.load.process`` with a load on stdin; `together` starts it.

It says ``ready`` when it is connected and warmed up, reads the time at which to begin, and prints what it counted.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Coroutine
from typing import Any

from whylight.cli.load.drive import Driver, MonotonicClock
from whylight.cli.load.senders import StreamSender, UnarySender, open_channels
from whylight.cli.load.spec import Load
from whylight.cli.parameters import Credentials, connection_settings
from whylight.client import AsyncClient
from whylight.client.connection import Connection
from whylight.errors import WhylightError

READY = "ready"
NOT_READY = "failed "
"""How the line begins that says why there is no load."""


async def serve_load(load: Load) -> None:
    """Do one process's part."""
    given = dict(load.connection)
    settings = connection_settings(credentials=Credentials(**given.pop("credentials")), **given)
    connection = Connection(load.server, settings.get("credentials"), settings.get("token"))
    async with AsyncClient(load.server, deadline=load.deadline, **settings) as client:
        await client.wait_ready(load.deadline)
    channels = open_channels(connection, load.connections)
    sender_of = StreamSender if load.stream else UnarySender
    sender: Any = sender_of(channels, connection, load.kinds, load.deadline)
    driver = Driver(load, sender, MonotonicClock())
    busy = time.process_time()
    await driver.warm_up()
    gc.freeze()
    print(READY, flush=True)
    begin = float(await asyncio.to_thread(sys.stdin.readline))
    await driver.run(begin)
    driver.tally.processor_seconds = time.process_time() - busy
    await sender.close()
    for channel in channels:
        await channel.close()
    driver.tally.twice = getattr(sender, "twice", 0)
    print(driver.tally.to_json(), flush=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed: it takes half the time for a call, and with it half of the load's cost."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def main() -> int:
    """Read a load, do it, and return 1 where the server cannot be put under it."""
    load = Load.from_json(sys.stdin.readline())
    try:
        run(serve_load(load))
    except WhylightError as error:
        print(f"{NOT_READY}{error.code.value} {error.reason} {error.message}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
