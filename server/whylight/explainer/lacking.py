"""Tells a lack of memory from other failures, and gives memory back; knows neither batches nor methods."""

from __future__ import annotations

import gc

import torch

from whylight.subject.lacking import is_out_of_memory

__all__ = ["free_memory", "is_out_of_memory"]


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
