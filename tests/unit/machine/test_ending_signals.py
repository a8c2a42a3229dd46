"""SIGTERM and SIGHUP as Ctrl-C: only where nobody else has use for them, and only until the end."""

from __future__ import annotations

import signal
import threading

import pytest

from pytest_istio_sidecar.machine.signals import EndingSignals

BOTH = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def defaults():
    """This process's handlers as a fresh one has them, and afterwards as they were."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_the_signal_interrupts_and_is_named(number):
    with EndingSignals(), pytest.raises(KeyboardInterrupt, match=number.name):
        signal.raise_signal(number)


def test_the_handlers_are_as_before_at_the_end():
    with EndingSignals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_DFL] * 2


def test_a_handler_of_somebody_elses_is_left_alone():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with EndingSignals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_handler_that_has_come_since_is_left_at_the_end():
    signals = EndingSignals()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.restore()
    assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_IGN, signal.SIG_DFL]


def test_a_thread_changes_no_handler():
    thread = threading.Thread(target=EndingSignals)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_DFL] * 2


def test_what_an_interrupt_ends_in_good_order_is_not_interrupted_again():
    """Of Ctrl-C too, which is not ours."""
    done = []

    def ends_in_good_order():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            try:
                int("none")
            except ValueError:
                signal.raise_signal(signal.SIGHUP)
            done.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with EndingSignals(), pytest.raises(KeyboardInterrupt):
            ends_in_good_order()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [True]


def test_an_interrupt_that_somebody_swallowed_does_not_make_the_next_one_unheard():
    with EndingSignals():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_an_end_that_goes_on_is_not_interrupted():
    with EndingSignals() as signals:
        signals.ending = True
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
