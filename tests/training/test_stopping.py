"""What stops a training: losses and gradients that are not finite, and requests of the user."""

import os
import signal

import pytest
import torch

from swinunetr.errors import TrainingStopped
from swinunetr.hardware import find_hardware
from swinunetr.training.stopping import require_finite, stop_requests

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_a_step_with_nan_or_infinity_stops_the_run(loss, gradient):
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    with pytest.raises(TrainingStopped, match="Step 7 on case 'img0003' gave a loss"):
        require_finite(torch.tensor(loss), model, 7, "img0003", find_hardware(), NO_SCALER)


def test_a_finite_step_passes_and_gives_its_loss():
    model, loss = torch.nn.Linear(3, 2), torch.tensor(0.1)
    model(torch.ones(1, 3)).square().mean().backward()
    assert require_finite(loss, model, 1, "img0001", find_hardware(), NO_SCALER) == float(loss)


def test_float16_gradients_that_overflow_in_every_step_stop_the_run():
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    for scale, stops in ((1.0, False), (2.0**-5, True)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.tensor(1.0))  # makes the scale
        if stops:
            with pytest.raises(TrainingStopped, match="Step 9 on case 'c'.*overflow in float16"):
                require_finite(torch.tensor(1.0), model, 9, "c", find_hardware(), scaler)
        else:
            assert require_finite(torch.tensor(1.0), model, 9, "c", find_hardware(), scaler) == 1


def test_the_first_request_is_noted_and_the_second_one_is_as_without():
    noted, stopped = [], []
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    try:
        with stop_requests(lambda: noted.append(1)):
            os.kill(os.getpid(), signal.SIGTERM)
            assert (noted, stopped) == ([1], [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert (noted, stopped) == ([1], [1])
    finally:
        signal.signal(signal.SIGTERM, before)
