"""Training recurrent PPO on CartPole without its velocities."""

from collections.abc import Iterator
from functools import partial

from benchmarks.cases.training import Run, Shape, repeated
from benchmarks.harness import STEPS_PER_SECOND, Ours, Peer, Task
from benchmarks.ours import STREAM
from benchmarks.timing import Call
from optinfra import envs, transforms
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.losses import squared_value_loss
from optinfra.networks import orthogonal_initialization, recurrent_actor_critic, tanh
from optinfra.signals import extrinsic
from optinfra.train.sources import TensorSource

ENV, UNITS, LSTM_UNITS, SEQUENCE = "tensor:CartPoleNoVel-v1", 64, 256, 32
DISCOUNT, GAE_LAMBDA, STRENGTH, MAX_GRAD_NORM = 0.98, 0.95, 0.05, 0.5
OURS = Shape(64, 64, 1024, 4, 3e-3)  # the shipped configuration but for the LSTM's size
DEFAULTS = Shape(8, 128, 128, 10, 3e-4)  # of SB3-contrib, with 8 environments
CALL_STEPS, QUICK_CALL_STEPS = 4_096, 4_096


def tasks(quick: bool) -> Iterator[Task]:
    """Ours beside SB3-contrib with its own numbers, and with ours."""
    steps = QUICK_CALL_STEPS if quick else CALL_STEPS
    yield Task(
        f"CartPole without velocities, LSTM of {LSTM_UNITS} units for actor and critic each; "
        "the first call compiles",
        ours=[Ours(described("tensors", OURS), partial(on_tensors, steps), steps)],
        peers=[peer(shape, steps) for shape in (DEFAULTS, OURS)],
        measure=STEPS_PER_SECOND,
    )


def described(where: str, shape: Shape) -> str:
    """Tell how a side collects and updates."""
    return (
        f"{where}, {shape.num_envs}×{shape.num_steps} steps, "
        f"{shape.num_epochs} epochs of {shape.batch_size}"
    )


def peer(shape: Shape, steps: int) -> Peer:
    """SB3-contrib's RecurrentPPO with these numbers."""
    settings = {
        "n_steps": shape.num_steps, "batch_size": shape.batch_size,
        "n_epochs": shape.num_epochs, "learning_rate": shape.learning_rate,
        "gamma": DISCOUNT, "gae_lambda": GAE_LAMBDA, "max_grad_norm": MAX_GRAD_NORM,
    }  # fmt: skip
    sizes = {"num_envs": shape.num_envs, "steps": steps, "units": LSTM_UNITS, "settings": settings}
    return Peer(described("RecurrentPPO", shape), "sb3_contrib:recurrent_training", sizes, steps)


def on_tensors(steps: int) -> Call:
    """Train so many steps more at each call."""
    env = envs.TENSOR_ENVS[ENV]()
    network = recurrent_actor_critic(
        env.spec,
        (STREAM,),
        memory_size=2 * LSTM_UNITS,
        hidden_units=UNITS,
        num_layers=1,
        activation=tanh,
        initialization=orthogonal_initialization(),
    )
    clipped = transforms.chain(
        transforms.clip_by_global_norm(MAX_GRAD_NORM), transforms.scale_by_adam()
    )
    learner = ppo(
        network,
        env.spec,
        learning_rate=OURS.learning_rate,
        entropy_coef=0.0,
        transform=transforms.skip_nonfinite(transforms.raveled(clipped)),
        value_loss=squared_value_loss,
    )
    functions = iteration(
        learner,
        {STREAM: extrinsic(gamma=DISCOUNT, strength=STRENGTH)},
        gae_lambda=GAE_LAMBDA,
        num_epochs=OURS.num_epochs,
        batch_size=OURS.batch_size,
        sequence_length=SEQUENCE,
        num_agents=OURS.num_envs,
        stage=compiled,
    )
    source = TensorSource(
        env,
        learner.act,
        num_envs=OURS.num_envs,
        num_steps=OURS.num_steps,
        stage=compiled,
        remember=lambda rows, device: learner.memories(rows, device).actor,
    )
    return repeated(Run(functions, source).advance, max(1, steps // OURS.rows))
