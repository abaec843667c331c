"""What stops a training: the user, a signal, a loss or gradient that is not finite."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from swinunetr.errors import TrainingStopped
from swinunetr.hardware import Hardware

LEAST_SCALE = 2**-4  # of a loss in float16; it begins at 2^16 and halves where gradients overflow


@contextmanager
def stop_requests(note: Callable[[], None]) -> Iterator[None]:
    """Call ``note`` on the first Ctrl-C or SIGTERM within the context; the second one stops at once."""

    def ask(number: int, frame: object) -> None:
        print("Stopping after this step; interrupt again to stop at once.", flush=True)
        note()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_finite(
    loss: Tensor, model: torch.nn.Module, step: int, case: str, hardware: Hardware, scaler: torch.amp.GradScaler
) -> float:
    """Return the mean loss over all ranks, after checking that loss and gradients are finite.

    The optimizer must not have changed the weights yet. Loss and norm of the gradients are read from the device
    together, so that the host waits for a GPU once per step.

    Args:
        loss: Loss of the step.
        model: Network with the gradients of the step.
        step: Number of the step.
        case: Name of the case, or of the cases, of the step.
        hardware: Ranks that train together.
        scaler: Loss scaler. If it is enabled, only the loss is checked, as it skips steps in which float16 overflows;
            each of them halves its scale, which must stay above ``LEAST_SCALE``.

    Raises:
        TrainingStopped: The loss or a gradient is NaN or infinite, or all gradients overflow; the message names step
            and case.
    """
    gradients = [] if scaler.is_enabled() else [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).to(loss.device)
    value, norm = torch.stack([loss.detach().double(), norm.double()]).tolist()
    value = hardware.mean(value)
    if not (math.isfinite(value) and math.isfinite(norm)):
        found = f"gave a loss of {value} and a gradient norm of {norm}"
    elif scaler.get_scale() < LEAST_SCALE:
        found = f"has gradients that overflow in float16, as in many steps before: their scale fell below {LEAST_SCALE}"
    else:
        return value
    raise TrainingStopped(
        f"Step {step} on case '{case}' {found}. The last saved state is from before this step. Check the intensities "
        "and labels of that case; if they are correct, lower learning_rate and use another logdir."
    )
