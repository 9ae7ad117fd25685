"""The whole product in a minute: starts the server, explains real photos by two methods, writes pictures, stops.

Run it with ``make demo``. It uses only what a user has: the command ``whylight serve`` and the client.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import skimage.data
from PIL import Image

import whylight

OUT = Path("demo")
METHODS = ["grad-cam", "saliency"]
OUTPUTS = [whylight.PictureOutput(canvas=whylight.Canvas.ORIGINAL), whylight.BoxesOutput()]


def main() -> None:
    """Serve, explain, write, stop."""
    OUT.mkdir(exist_ok=True)
    photos = {name: Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee")}
    server = subprocess.Popen(
        [sys.executable, "-m", "whylight", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[-1]
        with whylight.Client(address) as client:
            client.wait_ready(timeout=120)
            print(f"server at {address}: {client.server_info().native_operators}")
            for name, photo in photos.items():
                explain(client, name, photo)
            compare_classes(client, photos["astronaut"])
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    print(f"server stopped with exit code {code}; the pictures are in {OUT}/")
    sys.exit(code)


def explain(client: whylight.Client, name: str, photo: Image.Image) -> None:
    """Explain the top prediction of one photo by every method, in one call."""
    explained = client.explain(photo, METHODS, outputs=OUTPUTS)
    print(f"\n{name}: " + ", ".join(f"{p.label} {p.probability:.0%}" for p in explained.predictions[:3]))
    for explanation in explained.explanations:
        path = explanation.save(OUT / f"{name}-{explanation.method}.png")
        box = explanation.boxes[0]
        print(
            f"  {explanation.method:10} {explanation.target_label}: "
            f"box {box.left:.0f},{box.top:.0f} to {box.right:.0f},{box.bottom:.0f} -> {path}"
        )


def compare_classes(client: whylight.Client, photo: Image.Image) -> None:
    """Explain two classes of one photo: the maps must differ, or the method explains nothing."""
    targets = ["football helmet", "space shuttle"]
    explained = client.explain(photo, "grad-cam", target=targets, outputs=OUTPUTS)
    print("\nastronaut, two classes of one picture:")
    for explanation in explained.explanations:
        path = explanation.save(OUT / f"astronaut-{explanation.target_label.replace(' ', '-')}.png")
        print(f"  {explanation.target_label} (score {explanation.target_score:.1f}) -> {path}")


if __name__ == "__main__":
    main()
