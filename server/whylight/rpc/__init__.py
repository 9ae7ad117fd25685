"""The gRPC face of the server: servicers, checks, errors, health, reflection; imports neither torch nor plugin code."""

import os

# gRPC reads this when it is first imported. Its fork handlers are of no use to a server that spawns its workers, and
# they put a line into the log for every one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
