"""Recurrent networks: a layer by itself, and one PPO update on sequences."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM, ppo_batch, updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import GRU, LSTM, draw, recurrent_actor_critic
from optinfra.types import ActionSpec, Memories, Params, Spec

LAYERS = {"LSTM": LSTM, "GRU": GRU}
INPUTS, HIDDEN = 128, 64
ROWS = ((64, 16), (100, 64))  # steps, agents
SEQUENCES, LENGTH, OBS, ACTIONS, UNITS, MEMORY = 16, 64, 32, 4, 128, 128
RESETS = 0.02  # share of the steps where an episode begins, in the row that has them
SPEC = Spec(obs=((OBS,),), action=ActionSpec(continuous=ACTIONS))


def tasks(quick: bool) -> Iterator[Task]:
    """Layers forwards and back, then the update."""
    for steps, agents in ROWS[:1] if quick else ROWS:
        for name in LAYERS:
            sizes = {
                "kind": name, "steps": steps, "rows": agents, "inputs": INPUTS, "units": HIDDEN,
            }  # fmt: skip
            yield Task(
                f"{name} of {HIDDEN} units on {INPUTS} inputs, {steps} steps of {agents} agents, "
                "forwards and back",
                ours=[
                    Ours("compiled", partial(layer, name, steps, agents)),
                    Ours("compiled, vmap", partial(layer, name, steps, agents, lifted=True)),
                    Ours("eager", partial(layer, name, steps, agents, stage=unlifted)),
                ],
                peers=[Peer(f"torch.nn.{name}", "torch:recurrent_layer", sizes)],
            )
    sizes = {
        "rows": SEQUENCES * LENGTH, "obs": OBS, "actions": ACTIONS, "units": UNITS,
        "memory": MEMORY, "sequence": LENGTH,
    }  # fmt: skip
    yield Task(
        f"PPO update, {SEQUENCES} sequences of {LENGTH}, LSTM of memory {MEMORY}",
        ours=[
            Ours("compiled", partial(update, compiled, 0.0)),
            Ours("eager", partial(update, unlifted, 0.0)),
            Ours(f"compiled, {RESETS:.0%} of steps reset", partial(update, compiled, RESETS)),
        ],
        peers=[Peer("ML-Agents", "mlagents:ppo_update", sizes)],
    )


def layer(
    name: str, steps: int, agents: int, *, lifted: bool = False, stage: Stage = compiled
) -> Call:
    """Run the layer and its gradient with respect to weights and inputs."""
    module = LAYERS[name](INPUTS, HIDDEN)
    weights = draw(module)(random.key(0))
    x, memory = torch.randn(steps, agents, INPUTS), torch.zeros(agents, module.memory_size)

    def run(weights: Params, x: Tensor, memory: Tensor) -> Tensor:
        return functional_call(module, weights, (x, memory))[0]

    over_agents = vmap(run, in_dims=(None, 1, 0), out_dims=1) if lifted else run

    def loss(weights: Params, x: Tensor, memory: Tensor) -> Tensor:
        return over_agents(weights, x, memory).sum()

    gradient = stage(grad(loss, argnums=(0, 1)))
    return lambda: gradient(weights, x, memory)


def update(stage: Stage, resets: float) -> Call:
    """Update on sequences, with as many resets inside them as asked for."""
    network = recurrent_actor_critic(SPEC, (STREAM,), hidden_units=UNITS, memory_size=MEMORY)
    learner = ppo(network, SPEC)
    batch = ppo_batch(SPEC, SEQUENCES, LENGTH)._replace(
        memory=Memories(*(0.1 * torch.randn(SEQUENCES, MEMORY) for _ in range(2))),
        reset=torch.rand(SEQUENCES, LENGTH) < resets,
    )
    return updating(stage(learner.update), learner.init(random.key(0)), batch)
