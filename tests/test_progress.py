"""Progress is reported when nothing else is written; the first signal only asks to stop."""

import io
import signal
import time

import pytest

from spikediff import progress as module
from spikediff.progress import Heard, StopSignal, at_work, breaking_silence


def test_silence_is_broken_by_the_innermost_work(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 0.1)
    out, err = Heard(io.StringIO()), Heard(io.StringIO())
    with breaking_silence(out, err), at_work("outer"), at_work("counting \x1b[2J", 7) as work:
        work.advance(3)
        err.write("half a line")
        time.sleep(1.2)
    lines = err._file.getvalue().splitlines()
    assert lines[0] == "half a line"
    assert lines[1].startswith("spikediff: counting \\x1b[2J, 3 of 7, ")
    assert out._file.getvalue() == ""


def test_who_writes_is_not_interrupted(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 0.8)
    out, err = Heard(io.StringIO()), Heard(io.StringIO())
    with breaking_silence(out, err), at_work("writing"):
        for _ in range(12):
            out.write(".")
            time.sleep(0.1)
    assert err._file.getvalue() == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_first_signal_is_noted_and_a_second_one_acts(name):
    number, acted = getattr(signal, name), []
    before = signal.signal(number, lambda *given: acted.append(given[0]))
    try:
        with StopSignal() as stop:
            signal.raise_signal(number)
            assert (stop.received, acted) == (name, [])
            signal.raise_signal(number)
            assert acted == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.usefixtures("heard_sighup")
def test_sighup_is_noted_unless_it_is_ignored():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.received == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
