"""Runs that are interrupted, and what they are compared with."""

import os
import signal
import sys
from pathlib import Path

import chex

from optinfra import checkpoint
from optinfra.train import folders, loop
from tests.commands import leaves, rows, steps_of

ROOM = str(Path(loop.__file__).parent) + os.sep


def saved_steps(folder):
    return sorted(checkpoint.step_of(p) for p in (folder / folders.CHECKPOINTS).iterdir())


class CtrlC:
    """Press Ctrl-C at the n-th line of this room that runs within the loop's iterations.

    That comes in between any two lines of collecting, counting, reporting and saving.
    """

    def __init__(self, at=0, times=0):
        self.at, self.times, self.lines, self.inside = at, times, 0, False

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.called)
        return self

    def __exit__(self, *error):
        sys.settrace(self.before)

    def called(self, frame, event, argument):
        if frame.f_code is loop._Loop.run_until.__code__:
            self.inside = True
            return self.until_it_returns
        inside = self.inside and frame.f_code.co_filename.startswith(ROOM)
        return self.counting if inside else None

    def counting(self, frame, event, argument):
        if event == "line" and self.inside:
            self.lines += 1
            if self.at <= self.lines < self.at + self.times:
                signal.raise_signal(signal.SIGINT)
        return self.counting

    def until_it_returns(self, frame, event, argument):
        if event == "return":
            self.inside = False
        return self.until_it_returns


def assert_went_on_bit_for_bit(folder, whole):
    """The last checkpoint is that of a run nothing interrupted, and no row is there twice."""
    assert saved_steps(folder)[-1] == saved_steps(whole)[-1]
    chex.assert_trees_all_equal(leaves(folder), leaves(whole))
    steps = steps_of(folder)
    assert steps == sorted(set(steps)) and set(steps_of(whole)) <= set(steps)
    later = {int(row["steps"]): row for row in rows(folder)}
    for row in rows(whole):
        mine = later[int(row["steps"])]
        since = ("episode_return_mean", "episode_return_min", "episode_return_max",
                 "episode_length")  # fmt: skip
        assert {k: x for k, x in mine.items() if k not in since} == {
            k: x for k, x in row.items() if k not in since
        }
