"""Reward signals: `(init, evaluate, update)` triples of pure functions."""

from optinfra.signals.curiosity import Curiosity as Curiosity
from optinfra.signals.curiosity import curiosity as curiosity
from optinfra.signals.extrinsic import Extrinsic as Extrinsic
from optinfra.signals.extrinsic import extrinsic as extrinsic
from optinfra.signals.gail import GAIL as GAIL
from optinfra.signals.gail import gail as gail
from optinfra.signals.rnd import RND as RND
from optinfra.signals.rnd import rnd as rnd
