"""A player of tests' world, which speaks with ML-Agents as a build of Unity does.

    python -m tests.mlagents_player --mlagents-port PORT [--world '{"memory": true}']

ML-Agents listens at the port. What a player sends is what came of the last input; what it gets back
is the next one: a command, actions of agents, or word that it is over. Protocol 1.5.0.
"""

import argparse
import json

import grpc
import numpy as np
from mlagents_envs.base_env import ActionTuple
from mlagents_envs.communicator_objects.command_pb2 import RESET, STEP
from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto
from mlagents_envs.communicator_objects.unity_to_external_pb2_grpc import UnityToExternalProtoStub

from tests.mlagents_world import NAME, World

OK = 200  # a message's status; whoever sends another one is gone


def introduction():
    """What a player says of itself before anything else."""
    message = UnityMessageProto()
    told = message.unity_output.rl_initialization_output
    told.name, told.communication_version, told.package_version = NAME, "1.5.0", "3.0.0"
    told.capabilities.baseRLCapabilities = told.capabilities.multiAgentGroups = True
    return message


def describe(message, world):
    """Say how its agents act; how they see, each observation says itself."""
    for name, spec in world.behavior_specs.items():
        brain = message.unity_output.rl_initialization_output.brain_parameters.add()
        brain.brain_name, brain.is_training = name, True
        brain.action_spec.num_continuous_actions = spec.action_spec.continuous_size
        brain.action_spec.num_discrete_actions = spec.action_spec.discrete_size
        brain.action_spec.discrete_branch_sizes.extend(spec.action_spec.discrete_branches)


def tell(message, world, name):
    """Say what each agent of a behaviour sees that is to decide, or that has ended."""
    agents = message.unity_output.rl_output.agentInfos[name].value
    decisions, terminals = world.get_steps(name)
    for steps, ended in ((terminals, True), (decisions, False)):
        for row, agent_id in enumerate(steps.agent_id):
            agent = agents.add(
                id=agent_id, done=ended, max_step_reached=ended and bool(steps.interrupted[row]),
                reward=steps.reward[row], group_id=steps.group_id[row],
                group_reward=steps.group_reward[row],
            )  # fmt: skip
            if not ended and steps.action_mask is not None:
                agent.action_mask.extend(steps.action_mask[0][row].tolist())
            for spec, seen in zip(world.spec.observation_specs, steps.obs, strict=True):
                shown = agent.observations.add(
                    name=spec.name, shape=spec.shape, observation_type=spec.observation_type.value,
                    dimension_properties=[p.value for p in spec.dimension_property],
                )  # fmt: skip
                shown.float_data.data.extend(seen[row].tolist())


def act(world, name, given):
    """Do what ML-Agents decided: its actions come in the order in which agents were told of."""
    if given:
        actions = ActionTuple(
            np.array([list(a.continuous_actions) for a in given], np.float32),
            np.array([list(a.discrete_actions) for a in given], np.int32),
        )
        world.set_actions(name, actions)


def play(world, exchange):
    exchange(introduction())
    message = UnityMessageProto()
    while True:
        message.header.status = OK
        answer = exchange(message)
        if answer.header.status != OK:
            return
        asked = answer.unity_input.rl_input
        message = UnityMessageProto()
        if asked.command == RESET:
            world.reset()
            describe(message, world)
        elif asked.command == STEP:
            for name in world.behavior_specs:
                act(world, name, asked.agent_actions[name].value)
            world.step()
        for name in world.behavior_specs:
            tell(message, world, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mlagents-port", type=int, required=True)
    parser.add_argument("--world", type=json.loads, default={})
    asked, _ = parser.parse_known_args()  # players of Unity take more, -logFile and others
    kinds = {"continuous": True, "memory": False, "groups": False, "masks": True}
    with grpc.insecure_channel(f"localhost:{asked.mlagents_port}") as channel:
        play(
            World(**kinds | asked.world, seed=asked.mlagents_port % 2),
            UnityToExternalProtoStub(channel).Exchange,
        )
