"""Training PPO on CartPole: collecting, updating and keeping count, as `optinfra train` does."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.harness import STEPS_PER_SECOND, Ours, Peer, Task
from benchmarks.ours import STREAM
from benchmarks.timing import Call
from optinfra import envs, lift, random, transforms
from optinfra.iteration import Iteration, iteration
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.networks import actor_critic, orthogonal_initialization, tanh
from optinfra.signals import extrinsic
from optinfra.train.collect import Collector, collector
from optinfra.train.metrics import EpisodeWindow
from optinfra.train.sources import GymnasiumSource, Source, TensorSource
from optinfra.types import Learner, PyTree, Spec

ENV, TENSOR_ENV, UNITS = "CartPole-v1", "tensor:CartPole-v1", 64
DISCOUNT, GAE_LAMBDA, CLIP, MAX_GRAD_NORM = 0.99, 0.95, 0.2, 0.5
GOAL, EPISODES = 475.0, 100  # mean return over so many episodes
LONGEST = 120.0  # seconds until the goal is given up
QUICK_LONGEST = 1.0


class Shape(NamedTuple):
    """How a run collects and updates."""

    num_envs: int
    num_steps: int  # per environment between two updates
    batch_size: int
    num_epochs: int
    learning_rate: float

    @property
    def rows(self) -> int:
        """Environment steps between two updates."""
        return self.num_envs * self.num_steps


GYMNASIUM = Shape(8, 128, 256, 4, 3e-4)  # SB3's PPO with the same numbers is the peer
TENSOR = Shape(256, 32, 2048, 4, 2.5e-3)
MEMBER = Shape(64, 32, 512, 4, 2.5e-3)
MEMBERS, QUICK_MEMBERS = 16, 2
CALL_STEPS = 16_384  # environment steps of one call, SB3 needs about a second for them
QUICK_CALL_STEPS = 1_024


def tasks(quick: bool) -> Iterator[Task]:
    """All ways to train beside SB3 with the environments that both can run."""
    steps = QUICK_CALL_STEPS if quick else CALL_STEPS
    members = QUICK_MEMBERS if quick else MEMBERS
    sizes = {
        "env": ENV,
        "num_envs": GYMNASIUM.num_envs,
        "num_steps": GYMNASIUM.num_steps,
        "steps": steps,
        "units": UNITS,
        "settings": {
            "batch_size": GYMNASIUM.batch_size,
            "n_epochs": GYMNASIUM.num_epochs,
            "learning_rate": GYMNASIUM.learning_rate,
            "gamma": DISCOUNT,
            "gae_lambda": GAE_LAMBDA,
            "clip_range": CLIP,
            "max_grad_norm": MAX_GRAD_NORM,
        },
    }
    one = max(steps, TENSOR.rows) // TENSOR.rows
    many = max(steps, members * MEMBER.rows) // (members * MEMBER.rows)
    yield Task(
        f"{ENV}, {GYMNASIUM.num_steps} steps of {GYMNASIUM.num_envs} Gymnasium environments, "
        f"minibatches of {GYMNASIUM.batch_size}, {GYMNASIUM.num_epochs} epochs, nets 2×{UNITS}; "
        "the first call compiles",
        ours=[
            Ours("Gymnasium, sync", partial(on_gymnasium, "sync", steps), steps),
            Ours("Gymnasium, its vector form", partial(on_gymnasium, "auto", steps), steps),
            Ours(
                f"tensors, {TENSOR.num_envs} environments",
                lambda: repeated(Run(*on_tensors(TENSOR)).advance, one),
                one * TENSOR.rows,
            ),
            Ours(
                f"tensors, {members} members of {MEMBER.num_envs}",
                lambda: repeated(Members(members, MEMBER).advance, many),
                many * members * MEMBER.rows,
            ),
        ],
        peers=[Peer("SB3, 8 environments", "stable_baselines3:training", sizes, steps)],
        measure=STEPS_PER_SECOND,
    )


def remarks(quick: bool) -> Iterator[str]:
    """Tell how long the run on tensor environments takes to the goal, from a fresh start."""
    run = Run(*on_tensors(TENSOR))
    began = time.perf_counter()
    run.advance()
    compiling = time.perf_counter() - began
    run.restart(seed=1)
    began = time.perf_counter()
    seconds = 0.0
    while not run.solved and seconds < (QUICK_LONGEST if quick else LONGEST):
        run.advance()
        seconds = time.perf_counter() - began
    outcome = "reached" if run.solved else f"not reached ({run.window.mean:.0f})"
    yield (
        f"tensors, {TENSOR.num_envs} environments: mean return {GOAL:.0f} over {EPISODES} episodes "
        f"{outcome} after {seconds:.1f} s and {run.steps:,} steps; compiling before: "
        f"{compiling:.1f} s"
    )


class Run:
    """What `optinfra train` does between two reports, for either kind of environment."""

    def __init__(self, functions: Iteration, source: Source) -> None:
        """Begin with seed 0."""
        self._iteration, self._source = functions, source
        self.restart(seed=0)

    def restart(self, seed: int) -> None:
        """Begin anew; what is compiled stays so."""
        key, key_source = random.split(random.key(seed)).unbind()
        self._state, self._place = self._iteration.init(key), self._source.init(key_source)
        self.window, self.steps = EpisodeWindow(), 0

    def advance(self) -> None:
        """Collect one rollout and learn from it."""
        self._place, rollout, ended = self._source.collect(self._place, self._state.learner.params)
        self._state, stats = self._iteration.update(self._state, rollout)
        self.stats = floats(stats)
        self.window = EpisodeWindow(self.window.state())
        for episode in ended:
            self.window.add(episode.total_reward, episode.length)
        self.steps = int(self._state.learner.steps)

    @property
    def solved(self) -> bool:
        """Whether the goal is reached."""
        return self.window.episodes >= EPISODES and self.window.mean >= GOAL


class Members:
    """Several runs side by side on tensor environments, each with its own seed."""

    def __init__(self, members: int, shape: Shape) -> None:
        """Begin with the seeds that key 0 splits into."""

        def stage(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
            return compiled(lift.ensemble(function))

        env = tensor_env()
        learner = cartpole_learner(env.spec, shape)
        self._iteration = cartpole_iteration(learner, shape, stage)
        self._collector: Collector = collector(
            env, learner.act, num_envs=shape.num_envs, num_steps=shape.num_steps, stage=stage
        )
        keys, keys_source = random.split(random.key(0), 2 * members).chunk(2)
        self._state = lift.ensemble(self._iteration.init)(keys)
        self._place = lift.ensemble(self._collector.init)(keys_source)
        self.windows = [EpisodeWindow() for _ in range(members)]

    def advance(self) -> None:
        """Collect one rollout for each member and learn from it."""
        self._place, (rollout, episodes) = self._collector.collect(
            self._place, self._state.learner.params
        )
        self._state, stats = self._iteration.update(self._state, rollout)
        self.stats = floats(stats)
        members = episodes.ended.nonzero()[:, 0].tolist()
        returns = episodes.returns[episodes.ended].tolist()
        lengths = episodes.lengths[episodes.ended].tolist()
        for member, total_return, length in zip(members, returns, lengths):
            self.windows[member].add(total_return, length)


def on_gymnasium(vectorization: str, steps: int) -> Call:
    """Train so many steps more at each call."""
    vector = envs.make(ENV, GYMNASIUM.num_envs, vectorization=vectorization)
    assert isinstance(vector, envs.GymnasiumVector)
    learner = cartpole_learner(vector.spec, GYMNASIUM)
    source = GymnasiumSource(
        vector, learner.act, num_steps=GYMNASIUM.num_steps, stage=compiled, seed=0
    )
    run = Run(cartpole_iteration(learner, GYMNASIUM, compiled), source)
    return repeated(run.advance, steps // GYMNASIUM.rows)


def on_tensors(shape: Shape) -> tuple[Iteration, Source]:
    """Put a run on tensor environments together."""
    env = tensor_env()
    learner = cartpole_learner(env.spec, shape)
    source = TensorSource(
        env, learner.act, num_envs=shape.num_envs, num_steps=shape.num_steps, stage=compiled
    )
    return cartpole_iteration(learner, shape, compiled), source


def tensor_env() -> envs.Env:
    """CartPole in tensors."""
    return envs.TENSOR_ENVS[TENSOR_ENV]()


def cartpole_learner(spec: Spec, shape: Shape) -> Learner:
    """PPO with SB3's defaults for nets, initialisation and clipping."""
    adam = transforms.chain(
        transforms.clip_by_global_norm(MAX_GRAD_NORM), transforms.scale_by_adam()
    )
    return ppo(
        actor_critic(
            spec,
            (STREAM,),
            hidden_units=UNITS,
            activation=tanh,
            initialization=orthogonal_initialization(),
        ),
        spec,
        learning_rate=shape.learning_rate,
        clip_range=CLIP,
        entropy_coef=0.0,
        transform=transforms.skip_nonfinite(transforms.raveled(adam)),
    )


def cartpole_iteration(
    learner: Learner, shape: Shape, stage: Callable[[Callable[..., PyTree]], Callable[..., PyTree]]
) -> Iteration:
    """One iteration of it."""
    return iteration(
        learner,
        {STREAM: extrinsic(gamma=DISCOUNT)},
        gae_lambda=GAE_LAMBDA,
        num_epochs=shape.num_epochs,
        batch_size=shape.batch_size,
        stage=stage,
    )


def floats(stats: dict[str, torch.Tensor]) -> dict[str, list[float] | float]:
    """Turn stats into numbers, with one wait for all of them."""
    return dict(zip(stats, torch.stack(list(stats.values())).tolist()))


def repeated(advance: Call, times: int) -> Call:
    """Advance so many times in one call."""

    def call() -> None:
        for _ in range(times):
            advance()

    return call
