"""Demonstrations: what experts did, in ML-Agents' `.demo` files and Minari's data sets.

    spec, demonstrations = demos.load("expert.demo")
    expert = demos.taken(demonstrations)  # `Transitions`, for GAIL and behavioural cloning

Files need protobuf, and those with compressed images Pillow: pip install 'optinfra[demos]'.
"""

from optinfra.demos.format import DemoError as DemoError
from optinfra.demos.load import load as load
from optinfra.demos.minari import from_minari as from_minari
from optinfra.demos.pairs import Demonstrations as Demonstrations
from optinfra.demos.pairs import Loaded as Loaded
from optinfra.demos.pairs import first_episodes as first_episodes
from optinfra.demos.pairs import sequences as sequences
from optinfra.demos.pairs import taken as taken
from optinfra.demos.write import save as save
