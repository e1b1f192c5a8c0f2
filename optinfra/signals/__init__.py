"""Reward signals: `(init, evaluate, update)` triples of pure functions."""

from optinfra.signals.extrinsic import Extrinsic as Extrinsic
from optinfra.signals.extrinsic import extrinsic as extrinsic
