"""Contract cases of `optinfra.networks`: what is drawn by key, and what it computes."""

from collections.abc import Callable

import torch
from torch import nn

from optinfra import networks
from optinfra.networks import step_by_step
from optinfra.types import ActionSpec, Memories, Spec
from tests import examples, plain_groups
from tests.contracts import Case

BUILDERS = {
    "actor_critic": networks.actor_critic,
    "shared_actor_critic": networks.shared_actor_critic,
}
KINDS = Spec(
    obs=((3,), (2, 8, 8), (4, 3), (2,), (2, 8, 8)),
    action=ActionSpec(2, (3, 2)),
    goals=(3,),
    bytes=(1,),
)
INITIALIZERS = {
    "uniform_by_inputs": networks.uniform_by_inputs(7),
    "given": networks.given(torch.arange(6.0).view(3, 2)),
    "constant": networks.constant(0.5),
    "xavier_uniform": networks.xavier_uniform(2.0),
    "kaiming_normal": networks.kaiming_normal(0.2),
    "orthogonal": networks.orthogonal(1.5),
    "lecun_uniform": networks.lecun_uniform(),
    "fixup_normal": networks.fixup_normal(16),
}


def alone(k: int) -> tuple:
    return (examples.key(k),)


def initializer_case(initializer: networks.Initializer) -> Case:
    return Case(lambda key: initializer(key, (3, 2)), alone)


def cases_of(name: str, variant: str = "", spec=examples.SPEC, **options) -> dict[str, Case]:
    network = BUILDERS[name](spec, hidden_units=8, num_layers=1, **options)

    def inputs(k: int) -> tuple:
        return network.init(examples.key(k)), examples.observed(100 * k, (9,), spec)

    return {
        f"{name}.init{variant}": Case(network.init, alone),
        f"{name}.policy{variant}": Case(network.policy, inputs),
        f"{name}.values{variant}": Case(network.values, inputs),
        f"{name}.policy_and_values{variant}": Case(network.policy_and_values, inputs),
    }


def image_case(image: str, side: int) -> dict[str, Case]:
    """An actor that sees an image and nothing else."""
    spec = Spec(((2, side, side + 3),), ActionSpec(2))
    encoding = networks.Encoding(image)
    return only(cases_of("actor_critic", f" {image}", spec, encoding=encoding), "policy")


RECURRENT = {
    "recurrent_actor_critic": networks.recurrent_actor_critic,
    "shared_recurrent_actor_critic": networks.shared_recurrent_actor_critic,
}


def recurrent_cases_of(name: str) -> dict[str, Case]:
    network = examples.recurrent_network(
        RECURRENT[name], cell="gru" if "shared" in name else "lstm"
    )

    def inputs(k: int) -> tuple:
        seen = examples.trajectory(100 * k, 5, 3)
        memory = examples.normal(k, 3, 6)
        return network.init(examples.key(k)), seen.obs, memory, seen.terminated

    def inputs_of_both(k: int) -> tuple:
        params, obs, memory, reset = inputs(k)
        return params, obs, Memories(memory, -memory), reset

    run = step_by_step(network.values)
    return {
        f"{name}.init": Case(network.init, alone),
        f"{name}.policy": Case(network.policy, inputs),
        f"{name}.values": Case(network.values, inputs),
        f"{name}.values_and_memories": Case(network.values_and_memories, inputs),
        f"{name}.policy_and_values": Case(network.policy_and_values, inputs_of_both),
        f"step_by_step {name}": Case(run, inputs),
    }


def soft_cases_of(variant: str, memory_size: int | None, **options) -> dict[str, Case]:
    network = networks.soft_actor_critic(
        examples.SPEC, memory_size=memory_size, hidden_units=8, num_layers=1, **options
    )

    def inputs(k: int, part: str) -> tuple:
        seen = examples.trajectory(100 * k, 5, 3)
        empty = getattr(network.memories((3,)), part)
        memory = examples.normal(k, *empty.shape) if memory_size else ()
        return network.init(examples.key(k)), seen.obs, memory, seen.terminated

    def acted(k: int) -> tuple:
        return inputs(k, "actor")

    def valued(k: int) -> tuple:
        return inputs(k, "critic")

    def judged(k: int) -> tuple:
        params, obs, _, reset = acted(k)
        return params, obs, examples.normal(k, 5, 3, 2), reset

    def judged_from(k: int) -> tuple:
        return *judged(k), acted(k)[2]

    cases = {
        "init": Case(network.init, alone),
        "policy": Case(network.policy, acted),
        "policy_and_memories": Case(network.policy_and_memories, acted),
        "values": Case(network.values, valued),
        "values_and_memories": Case(network.values_and_memories, valued),
        "action_values": Case(lambda *rest: network.action_values(1, *rest), judged_from),
        "action_values_and_memories": Case(
            lambda *rest: network.action_values_and_memories(1, *rest), judged
        ),
    }
    return {f"soft_actor_critic.{name} {variant}": case for name, case in cases.items()}


def only(cases: dict[str, Case], *names: str) -> dict[str, Case]:
    return {name: case for name, case in cases.items() if name.split(".")[1].split()[0] in names}


BRANCHES = (3, 2)
MATCH3 = networks.Encoding("match3")


def choices(k: int) -> torch.Tensor:
    return examples.normal(k, 4, sum(BRANCHES))


def group_cases_of(variant: str, memory_size: int | None, mates: int, **options) -> dict[str, Case]:
    network = networks.group_actor_critic(
        examples.SPEC, memory_size=memory_size, hidden_units=8, num_layers=1, **options
    )

    def inputs(k: int, memories: int = 1) -> tuple:
        obs, _ = plain_groups.obs_and_mates(100 * k, 5, 3, mates=mates)
        memory = () if memory_size is None else examples.normal(k, 3, memories * memory_size)
        return network.init(examples.key(k)), obs, memory, examples.normal(k + 1, 5, 3) > 0.5

    def judged(memories: int) -> Callable[[int], tuple]:
        def arguments(k: int) -> tuple:
            params, obs, memory, reset = inputs(k, memories)
            _, others = plain_groups.obs_and_mates(100 * k, 5, 3, mates=mates)
            return params, obs, others, torch.tensor(4.0 + k), memory, reset

        return arguments

    cases = {
        "init": Case(network.init, alone),
        "policy": Case(network.policy, inputs),
        "values": Case(network.values, judged(1)),
        "baselines": Case(network.baselines, judged(1)),
        "values_and_memories": Case(network.values_and_memories, judged(1)),
        "baselines_and_memories": Case(network.baselines_and_memories, judged(1)),
        "values_and_baselines": Case(network.values_and_baselines, judged(2)),
    }
    return {f"group_actor_critic.{name} {variant}": case for name, case in cases.items()}


GROUP_JUDGES = ("values", "baselines", "values_and_memories", "values_and_baselines")


def entities(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return examples.normal(k, 3, 5, 8), examples.normal(k + 1, 3, 5) > 0.0


CASES = {
    "attend": Case(
        networks.attend, lambda k: (entities(k)[0], entities(k + 3)[0], *entities(k + 6))
    ),
    **group_cases_of("lstm", 6, 3),
    **only(group_cases_of("forgetting", None, 9), *GROUP_JUDGES, "policy"),
    **only(group_cases_of("gru", 6, 2, cell="gru"), "values_and_baselines"),
    **only(group_cases_of("nobody", None, 0), "values_and_baselines"),
    **soft_cases_of("lstm", 6),
    **soft_cases_of("forgetting", None),
    **only(
        soft_cases_of("lstm without values", 6, value_network=False),
        "values",
        "values_and_memories",
    ),
    **only(
        soft_cases_of(
            "forgetting, without values, normed", None, value_network=False, layer_norm=True
        ),
        "init",
        "values",
        "action_values",
    ),
    "branch_probs": Case(
        lambda logits: networks.branch_probs(logits, BRANCHES), lambda k: (choices(k),)
    ),
    "expected_value": Case(
        lambda q, probs: networks.expected_value(q, probs, BRANCHES),
        lambda k: (choices(k), choices(k + 1).sigmoid()),
    ),
    **{name: initializer_case(initializer) for name, initializer in INITIALIZERS.items()},
    "draw": Case(networks.draw(nn.Linear(3, 2)), alone),
    "seen_once": Case(
        lambda *obs: networks.seen_once(KINDS, obs), lambda k: examples.observed(k, (3, 2), KINDS)
    ),
    "pixel_by_pixel": Case(
        networks.pixel_by_pixel, lambda k: (examples.observed(k, (2,), KINDS)[1],)
    ),
    "as_floats": Case(
        networks.as_floats, lambda k: (torch.arange(5 + k, 9 + k, dtype=torch.uint8),)
    ),
    **cases_of("actor_critic"),
    **cases_of("actor_critic", " of every kind", KINDS, encoding=MATCH3),
    **cases_of("shared_actor_critic", " of every kind", KINDS, encoding=MATCH3),
    **image_case("simple", 20),
    **image_case("nature_cnn", 36),
    **image_case("fully_connected", 3),
    **image_case("resnet", 15),
    **cases_of("shared_actor_critic"),
    **recurrent_cases_of("recurrent_actor_critic"),
    **recurrent_cases_of("shared_recurrent_actor_critic"),
}
