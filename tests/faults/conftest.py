from __future__ import annotations

import sys
from pathlib import Path

for folder in (
    "open_inference",
    "rpc",
):  # requests of the protocol, and servers whose models change, as their tests make
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
