"""When a failed save is retried."""

import pytest

from seedfast.loop import save as save_module
from seedfast.loop.save import Retry


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        """The time in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(save_module, "time", clock)
    return clock


def test_nothing_is_retried_before_a_save_fails(clock: Clock) -> None:
    retry = Retry()
    clock.now = 1e9
    assert not retry.due()


def test_each_failure_doubles_the_delay_up_to_ten_minutes(clock: Clock) -> None:
    retry = Retry()
    for delay in (10, 20, 40, 80, 160, 320, 600, 600):
        retry.failed()
        clock.now += delay - 1
        assert not retry.due()
        clock.now += 1
        assert retry.due()


def test_a_success_ends_the_retries_and_resets_the_delay(clock: Clock) -> None:
    retry = Retry()
    retry.failed()
    retry.failed()
    retry.succeeded()
    clock.now += 1e6
    assert not retry.due()
    retry.failed()
    clock.now += 10
    assert retry.due()
