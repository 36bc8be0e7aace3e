"""Devices that tests run on, and a guard against waiting for them."""

from contextlib import contextmanager

import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextmanager
def never_waiting(device):
    """Inside, anything that makes the host wait for the accelerator is an error."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
