import torch

from optinfra import random
from optinfra.envs import (
    CartPoleState,
    CatchState,
    EscapeState,
    FetchState,
    MountainCarState,
    NearestState,
    PendulumState,
    RecallState,
    RoomsState,
    autoreset,
    cartpole,
    cartpole_without_velocity,
    catch,
    escape,
    fetch,
    group_autoreset,
    mountaincar,
    nearest,
    observe_only,
    pendulum,
    pendulum_without_velocity,
    recall,
    rooms,
)
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


def cars(k):
    """Member 0 runs into the wall, member 1 over the goal, member 2 meets its time limit."""
    x, v = torch.tensor([[-1.18, -0.05], [0.49, 0.03], [-0.4, 0.01]])[k].unbind()
    return MountainCarState(x, v, torch.tensor(5 + k)), push(k), random.key(k)


def walkers(k):
    """Member 0 runs into a wall, member 1 reaches the goal, member 2 meets its time limit."""
    row, column = torch.tensor([[0, 2], [0, 5], [1, 1]])[k].unbind()
    right = Action(torch.zeros(0), torch.tensor([3]))
    return RoomsState(row, column, torch.tensor(5 + k)), right, random.key(k)


def cued(k):
    """Member 0 has seen its cue, member 1 answers right, member 2 wrong."""
    state = RecallState(torch.tensor(k), torch.tensor([0, DELAY + 1, DELAY + 1][k]))
    return state, Action(torch.zeros(0), torch.tensor([min(k, 1)])), random.key(k)


def hunters(k):
    """Member 0 touches the nearest, member 1 another for the last time, member 2 none in time."""
    state = NearestState(
        place=torch.tensor([0.1 * k, 0.2]),
        origin=torch.tensor([0.1, 0.3]),
        targets=torch.tensor([[[0.2, 0.3], [0.9, 0.0]], [[0.3, 0.1], [0.1, 0.4]]][min(k, 1)]),
        present=torch.tensor([True, k > 0]),
        reached=torch.tensor(k),
        steps=torch.tensor(5 + k),
    )
    way = torch.tensor([[0.5, 0.1], [0.6, -0.5], [-1.0, 0.3]])[k]
    return state, Action(way, torch.zeros(0, dtype=torch.int64)), random.key(k)


def errands(k):
    """Member 0 takes what is asked for, member 1 another thing, member 2 runs into the wall."""
    state = FetchState(
        place=torch.tensor([[1, 0], [1, 0], [0, 1]])[k],
        things=torch.tensor([[1, 0], [0, 2], [2, 2]]),
        asked=torch.tensor(k),
        steps=torch.tensor(5 + k),
    )
    return state, Action(torch.zeros(0), torch.tensor([[4], [4], [0]])[k]), random.key(k)


def balls(k):
    """Member 0 still falls, member 1 is caught, member 2 is not."""
    state = CatchState(torch.tensor(k), torch.tensor(2), torch.tensor([0, 2, 2])[k])
    return state, Action(torch.zeros(0), torch.tensor([[2], [0], [2]])[k]), random.key(k)


def inmates(k):
    """Member 0 gives one up, member 1 leaves with the key, member 2 meets its time limit."""
    places = torch.tensor([[[1, 2], [0, 1]], [[0, 3], [1, 1]], [[0, 0], [1, 2]]])[k]
    state = EscapeState(
        places=places,
        present=torch.tensor([k == 0, True]),
        guard=torch.tensor([1, 3]),
        door=torch.tensor([1, 0]),
        stands=torch.tensor(k == 0),
        carries=torch.tensor([False, k == 1]),
        steps=torch.tensor(5 + k),
    )
    choices = torch.tensor([[[4], [0]], [[2], [3]], [[1], [2]]])[k]
    return state, Action(torch.zeros(2, 0), choices), random.key(k)


def in_two(step):
    """`(state, *inputs) -> (state, out)` from a step that returns more than two things."""

    def paired(*arguments):
        state, *out = step(*arguments)
        return state, tuple(out)

    return paired


LIMIT, DELAY = 8, 3
REMEMBERED = recall(cues=3, delay=DELAY)
TWO_ROOMS = rooms(num_rooms=2, room_size=3, time_limit=LIMIT)
TWO_INMATES = escape(agents=2, rows=2, columns=4, time_limit=LIMIT)
TWO_TARGETS = nearest(targets=2, rounds=2, time_limit=LIMIT)
THREE_THINGS = fetch(things=3, size=3, time_limit=LIMIT)
FOUR_ROWS = catch(rows=4, columns=5)
POSITION = observe_only(cartpole(time_limit=LIMIT), (0,))
CASES = {
    "cartpole.reset": Case(cartpole().reset, key),
    "cartpole.step": Case(in_two(cartpole(time_limit=LIMIT).step), carts, step=True),
    "pendulum.reset": Case(pendulum().reset, key),
    "pendulum.step": Case(in_two(pendulum(time_limit=LIMIT).step), rods, step=True),
    "mountaincar.reset": Case(mountaincar().reset, key),
    "mountaincar.step": Case(in_two(mountaincar(time_limit=LIMIT).step), cars, step=True),
    "rooms.reset": Case(rooms().reset, key),
    "rooms.step": Case(in_two(TWO_ROOMS.step), walkers, step=True),
    "recall.reset": Case(REMEMBERED.reset, key),
    "recall.step": Case(in_two(REMEMBERED.step), cued, step=True),
    "nearest.reset": Case(nearest().reset, key),
    "nearest.step": Case(in_two(TWO_TARGETS.step), hunters, step=True),
    "fetch.reset": Case(fetch().reset, key),
    "fetch.step": Case(in_two(THREE_THINGS.step), errands, step=True),
    "catch.reset": Case(catch().reset, key),
    "catch.step": Case(in_two(FOUR_ROWS.step), balls, step=True),
    "escape.reset": Case(escape().reset, key),
    "escape.step": Case(in_two(TWO_INMATES.step), inmates, step=True),
    "group_autoreset escape": Case(group_autoreset(TWO_INMATES), inmates, step=True),
    "observe_only.reset": Case(POSITION.reset, key),
    "observe_only.step": Case(in_two(POSITION.step), carts, step=True),
    "cartpole_without_velocity.reset": Case(cartpole_without_velocity().reset, key),
    "cartpole_without_velocity.step": Case(
        in_two(cartpole_without_velocity(time_limit=LIMIT).step), carts, step=True
    ),
    "pendulum_without_velocity.reset": Case(pendulum_without_velocity().reset, key),
    "pendulum_without_velocity.step": Case(
        in_two(pendulum_without_velocity(time_limit=LIMIT).step), rods, step=True
    ),
    "autoreset cartpole": Case(autoreset(cartpole(time_limit=LIMIT)), carts, step=True),
    "autoreset pendulum": Case(autoreset(pendulum(time_limit=LIMIT)), rods, step=True),
    "autoreset mountaincar": Case(autoreset(mountaincar(time_limit=LIMIT)), cars, step=True),
    "autoreset rooms": Case(autoreset(TWO_ROOMS), walkers, step=True),
    "autoreset nearest": Case(autoreset(TWO_TARGETS), hunters, step=True),
    "autoreset fetch": Case(autoreset(THREE_THINGS), errands, step=True),
    "autoreset catch": Case(autoreset(FOUR_ROWS), balls, step=True),
    "autoreset recall": Case(autoreset(REMEMBERED), cued, step=True),
}
