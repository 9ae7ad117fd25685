"""From a device as people name it to one that computes here, or a readable refusal; knows no model."""

from __future__ import annotations

import torch

from whylight.errors import InvalidInput


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device, once it has taken a tensor.

    Raises:
        InvalidInput: there is no such kind of device, or none of its kind and number here; `field` is "device".
    """
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InvalidInput(f"{device!r} is no device; write cpu, cuda or cuda:0", field="device") from None
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            why = "PyTorch finds no CUDA driver or GPU" if torch.version.cuda else "this PyTorch is built without CUDA"
            raise InvalidInput(f"there is no device {str(chosen)!r}: {why}", field="device")
        if chosen.index is not None and chosen.index >= count:
            raise InvalidInput(
                f"there is no device {str(chosen)!r}; there are {', '.join(f'cuda:{index}' for index in range(count))}",
                field="device",
            )
    try:
        torch.zeros(1, device=chosen).sum().item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch that was built without the device
        said = str(error).partition("\n")[0]
        raise InvalidInput(f"the device {str(chosen)!r} does not compute: {said}", field="device") from error
    return chosen
