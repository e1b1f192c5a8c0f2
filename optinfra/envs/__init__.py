"""Environments: pure functions of tensors, and an adapter for Gymnasium's."""

from optinfra.envs.cartpole import CartPoleState as CartPoleState
from optinfra.envs.cartpole import cartpole as cartpole
from optinfra.envs.environment import Env as Env
from optinfra.envs.environment import EnvStep as EnvStep
from optinfra.envs.environment import Transition as Transition
from optinfra.envs.environment import autoreset as autoreset
from optinfra.envs.gymnasium import Episode as Episode
from optinfra.envs.gymnasium import GymnasiumVector as GymnasiumVector
from optinfra.envs.gymnasium import VectorStep as VectorStep
from optinfra.envs.hidden import cartpole_without_velocity as cartpole_without_velocity
from optinfra.envs.hidden import observe_only as observe_only
from optinfra.envs.hidden import pendulum_without_velocity as pendulum_without_velocity
from optinfra.envs.mountaincar import MountainCarState as MountainCarState
from optinfra.envs.mountaincar import mountaincar as mountaincar
from optinfra.envs.pendulum import PendulumState as PendulumState
from optinfra.envs.pendulum import pendulum as pendulum
from optinfra.envs.recall import RecallState as RecallState
from optinfra.envs.recall import recall as recall
from optinfra.envs.registry import TENSOR_ENVS as TENSOR_ENVS
from optinfra.envs.registry import make as make
from optinfra.envs.rooms import RoomsState as RoomsState
from optinfra.envs.rooms import rooms as rooms
