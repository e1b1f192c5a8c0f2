import torch

from optinfra import random
from optinfra.envs import CartPoleState, PendulumState, autoreset, cartpole, pendulum
from optinfra.types import Action
from tests.contracts import Case


def key(k):
    return (random.key(k),)


def push(k):
    return Action(torch.zeros(0), torch.tensor([k % 2]))


def torque(k):
    return Action(torch.tensor([0.9 - 0.7 * k]), torch.zeros(0, dtype=torch.int64))


def carts(k):
    """Member 1 falls with this step, member 2 meets its time limit."""
    x, v, angle, w = torch.tensor([0.3, -0.4, 0.05, 0.7]) * (1 + k)
    state = CartPoleState(x, v, torch.tensor(0.208) if k == 1 else angle, w, torch.tensor(5 + k))
    return state, push(k), random.key(k)


def rods(k):
    angle, speed = torch.tensor([2.0, -3.0]) * (1 + k)
    return PendulumState(angle, speed, torch.tensor(5 + k)), torque(k), random.key(k)


def in_two(step):
    """`(state, *inputs) -> (state, out)` from a step that returns five things."""

    def paired(*arguments):
        state, *out = step(*arguments)
        return state, tuple(out)

    return paired


LIMIT = 8
CASES = {
    "cartpole.reset": Case(cartpole().reset, key),
    "cartpole.step": Case(in_two(cartpole(time_limit=LIMIT).step), carts, step=True),
    "pendulum.reset": Case(pendulum().reset, key),
    "pendulum.step": Case(in_two(pendulum(time_limit=LIMIT).step), rods, step=True),
    "autoreset cartpole": Case(autoreset(cartpole(time_limit=LIMIT)), carts, step=True),
    "autoreset pendulum": Case(autoreset(pendulum(time_limit=LIMIT)), rods, step=True),
}
