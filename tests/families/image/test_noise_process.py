"""The noise process: invalid options, sampling grids, and the level of an image to start from."""

from typing import Any

import pytest

from seedfast.errors import UserError
from seedfast.families.image.noise_process import NoiseProcess


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "eps", "zero_terminal_snr": True}, "predict v or x0"),
        ({"prediction": "eps", "schedule": "flow"}, "predict v or x0"),
        ({"schedule": "edm", "prediction": "v"}, "use the prediction edm, not v"),
        (
            {"schedule": "flow", "prediction": "flow", "zero_terminal_snr": True},
            r"zero_terminal_snr \(True\) has no effect without objective.process.schedule linear",
        ),
        ({"schedule": "flow", "prediction": "flow", "timesteps": 10}, r"timesteps \(10\) has no effect without"),
        ({"beta_start": 0.01}, r"beta_start \(0.01\) has no effect without objective.process.schedule linear"),
        ({"schedule": "linear", "beta_start": 0.5}, "increasing numbers between 0 and 1, not 0.5 and 0.02"),
        ({"sigma_data": 0.5}, r"sigma_data \(0.5\) has no effect without objective.process.prediction edm"),
        ({"timesteps": 1}, "timesteps must be in .2, 1e.06., not 1"),
        ({"schedule": "linear", "timesteps": 100}, "still holds 60% of the image"),
        ({"schedule": "linear", "beta_end": 0.001}, "still holds 7.% of the image"),
    ],
    ids=str,
)
def test_invalid_processes_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NoiseProcess(**options)


def test_sampling_without_signal_starts_at_the_last_time() -> None:
    process = NoiseProcess(zero_terminal_snr=True, timesteps=100)
    assert float(process.grid(7, None)[0].time) == 99
    with pytest.raises(UserError, match="trailing or linspace"):
        process.grid(7, "leading")


def test_a_continuous_schedule_has_no_spacing() -> None:
    with pytest.raises(UserError, match="spacing has no effect with the schedule flow"):
        NoiseProcess(schedule="flow", prediction="flow").grid(5, "leading")
