"""Contract cases of `optinfra.networks`: what is drawn by key, and what it computes."""

from torch import nn

from optinfra import networks
from tests import examples
from tests.contracts import Case

BUILDERS = {
    "actor_critic": networks.actor_critic,
    "shared_actor_critic": networks.shared_actor_critic,
}
INITIALIZERS = {
    "constant": networks.constant(0.5),
    "xavier_uniform": networks.xavier_uniform(2.0),
    "kaiming_normal": networks.kaiming_normal(0.2),
    "orthogonal": networks.orthogonal(1.5),
    "lecun_uniform": networks.lecun_uniform(),
}


def alone(k: int) -> tuple:
    return (examples.key(k),)


def initializer_case(initializer: networks.Initializer) -> Case:
    return Case(lambda key: initializer(key, (3, 2)), alone)


def cases_of(name: str) -> dict[str, Case]:
    network = examples.network(BUILDERS[name])

    def inputs(k: int) -> tuple:
        return network.init(examples.key(k)), examples.batch(100 * k, 9).obs

    return {
        f"{name}.init": Case(network.init, alone),
        f"{name}.policy": Case(network.policy, inputs),
        f"{name}.values": Case(network.values, inputs),
        f"{name}.policy_and_values": Case(network.policy_and_values, inputs),
    }


CASES = {
    **{name: initializer_case(initializer) for name, initializer in INITIALIZERS.items()},
    "draw": Case(networks.draw(nn.Linear(3, 2)), alone),
    **cases_of("actor_critic"),
    **cases_of("shared_actor_critic"),
}
