"""Training SAC on Pendulum with an update after each step, as `optinfra train` does."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.cases.training import floats
from benchmarks.harness import STEPS_PER_SECOND, Ours, Peer, Task
from benchmarks.ours import DISCOUNT
from benchmarks.timing import Call
from optinfra import settings
from optinfra.train.loop import LoopState, prepare
from optinfra.train.metrics import EpisodeWindow

ENV, UNITS, LAYERS = "Pendulum-v1", 256, 2
BATCH, HELD, START, LEARNING_RATE, TAU = 256, 50_000, 100, 3e-4, 0.005
CALL_STEPS, QUICK_CALL_STEPS = 500, 50


def tasks(quick: bool) -> Iterator[Task]:
    """SB3 with the same numbers and nets; ours also as ML-Agents has it, with V for target Qs."""
    steps = QUICK_CALL_STEPS if quick else CALL_STEPS
    sizes = {
        "env": ENV,
        "steps": steps,
        "units": UNITS,
        "layers": LAYERS,
        "settings": {
            "batch_size": BATCH,
            "buffer_size": HELD,
            "learning_starts": START,
            "learning_rate": LEARNING_RATE,
            "gamma": DISCOUNT,
            "tau": TAU,
        },
    }
    yield Task(
        f"{ENV}, one environment of Gymnasium's, an update on {BATCH} rows after each step, nets "
        f"{LAYERS}×{UNITS}; the first call compiles",
        ours=[
            Ours("compiled", partial(training, "on", steps, False), steps),
            Ours("compiled, V", partial(training, "on", steps, True), steps),
            Ours("eager", partial(training, "off", steps, False), steps),
        ],
        peers=[
            Peer("SB3", "stable_baselines3:sac_training", sizes | {"activation": "ReLU"}, steps)
        ],
        measure=STEPS_PER_SECOND,
    )


def training(compiling: str, steps: int, value_network: bool) -> Call:
    """Train so many steps more at each call, at the first one until there are updates too."""
    run = Run(configuration(compiling, value_network))

    def call() -> None:
        while not run.stats:
            run.advance()
        for _ in range(steps):
            run.advance()

    return call


def configuration(compiling: str, value_network: bool) -> settings.RunSettings:
    """Settings as a file would have them."""
    behavior = {
        "trainer_type": "sac",
        "hyperparameters": {
            "batch_size": BATCH,
            "buffer_size": HELD,
            "buffer_init_steps": START,
            "learning_rate": LEARNING_RATE,
            "tau": TAU,
            "steps_per_update": 1,
        },
        "network_settings": {"hidden_units": UNITS, "num_layers": LAYERS},
        "reward_signals": {"extrinsic": {"gamma": DISCOUNT}},
    }
    forms = {"activation": "relu", "sac": {"value_network": value_network}}
    own = {"env": ENV, "compile": compiling, **forms}
    seeded = {"env_settings": {"seed": 0}}
    return settings.load({"behaviors": {ENV: behavior}, "optinfra": own} | seeded)


class Run:
    """What `optinfra train` does between two reports."""

    def __init__(self, run: settings.RunSettings) -> None:
        """Begin."""
        self._training = prepare(run, ENV, torch.device("cpu"))
        self._state = self._training.start
        self.window = EpisodeWindow()
        self.stats: dict[str, list[float] | float] = {}  # of the last update; none before the first

    def advance(self) -> None:
        """Take one step, and learn from what is held."""
        before = self._state
        params = before.iteration.learner.params
        source, rollout, ended = self._training.source.collect(before.source, params)
        learnt, stats = self._training.iteration.update(before.iteration, rollout)
        self.stats = floats(stats) if stats else {}
        self.window = EpisodeWindow(self.window.state())
        for episode in ended:
            self.window.add(episode.total_reward, episode.length)
        self._state = LoopState(learnt, source, self.window.state())
        self.steps = int(learnt.learner.steps)
        self._training.replay.commit()
