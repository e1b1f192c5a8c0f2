"""Contract cases of `optinfra.learners`."""

import torch

from optinfra import networks, random, transforms, tree
from optinfra.learners import PPOBatch, sac
from optinfra.types import ActionSpec, Learner, Spec
from tests import examples, group_cases
from tests.contracts import Case

PPO = examples.learner()
STATES = [PPO.init(random.key(k)) for k in range(3)]
CONTINUOUS = Spec(((4,),), ActionSpec(2))
PPO_CONTINUOUS = examples.learner(CONTINUOUS, normalize=False)


def rows(k: int) -> PPOBatch:
    return examples.batch(100 * k, 9)


def obs(k: int):
    return rows(k).obs


def failed(k: int) -> PPOBatch:
    return rows(k)._replace(live={"extrinsic": torch.full((9,), k != 1)})


def imitated(k: int, *rows: int):
    seen = examples.transitions(100 * k, *rows)
    return seen.obs, seen.action, examples.normal(k, *rows, 5) > -0.5


RECURRENT = {
    "lstm": examples.recurrent_learner(),
    "gru, burn-in": examples.recurrent_learner(cell="gru", burn_in=2),
}


def recurrent_cases_of(name: str) -> dict[str, Case]:
    learner = RECURRENT[name]

    def params(k: int):
        return learner.init(random.key(k)).params

    def trajectory(k: int, mask=()):
        memory = examples.normal(k, 3, 6)
        return examples.trajectory(100 * k, 6, 3, memory=memory, mask=mask)

    def padded(k: int):
        lengths = torch.tensor([6, 4 - k, k])
        return trajectory(k, torch.arange(6)[:, None] < lengths)

    def following(k: int, *rows: int):
        return examples.batch(100 * k + 1, *rows).obs

    done = torch.tensor([True, False, True])
    return {
        f"ppo.act {name}": Case(
            learner.act, lambda k: (params(k), obs(k), examples.normal(k, 9, 6), examples.key(k))
        ),
        f"ppo.policy {name}": Case(
            learner.policy, lambda k: (params(k), obs(k), examples.normal(k, 9, 6))
        ),
        f"ppo.update {name}": Case(
            learner.update,
            lambda k: (learner.init(random.key(k)), examples.sequences(100 * k, 4, 5)),
            step=True,
        ),
        f"ppo.trajectory_values {name}": Case(
            learner.trajectory_values,
            lambda k: (params(k), trajectory(k), following(k, 3), done),
        ),
        f"ppo.trajectory_values {name}, padded": Case(
            learner.trajectory_values, lambda k: (params(k), padded(k), following(k, 3), done)
        ),
        f"ppo.executed_log_prob {name}": Case(
            learner.executed_log_prob,
            lambda k: (params(k), *imitated(k, 4, 3), examples.normal(k, 3, 6)),
        ),
        f"ppo.rollout_values {name}": Case(
            learner.rollout_values, lambda k: (params(k), padded(k), following(k, 6, 3))
        ),
    }


def poca_cases_of(variant: str, memory_size: int | None = None) -> dict[str, Case]:
    # The bias of keys has no slope but rounding, of which Adam with its usual ε makes whole steps.
    learner = group_cases.learner(memory_size, transform=transforms.scale_by_adam(eps=1e-3))

    def params(k: int):
        return learner.init(random.key(k)).params

    def batch(k: int):
        if memory_size:
            return group_cases.sequences(100 * k, 4, 5)
        return group_cases.batch(100 * k, 9)

    def trajectory(k: int):
        memory = examples.normal(k, 3, 2 * memory_size) if memory_size else ()
        mask = torch.arange(6)[:, None] < torch.tensor([6, 4 - k, k])
        return group_cases.trajectory(100 * k, 6, 3, memory=memory, mask=mask)

    def alone(k: int):
        one = trajectory(k)
        return one._replace(next_mates=tree.take(one.next_mates, -1))

    def following(k: int, *rows: int):
        return examples.batch(100 * k + 1, *rows).obs

    def memory(k: int):
        return examples.normal(k, 9, memory_size) if memory_size else ()

    def remembered(k: int):
        return (examples.normal(k, 3, memory_size),) if memory_size else ()

    def valued(k: int):
        critic = examples.normal(k, 3, 2 * memory_size) if memory_size else ()
        return params(k), following(k, 4, 3), critic, group_cases.mates(k, 4, 3)

    done = torch.tensor([True, False, True])
    return {
        f"poca.act {variant}": Case(
            learner.act, lambda k: (params(k), obs(k), memory(k), examples.key(k))
        ),
        f"poca.greedy {variant}": Case(learner.greedy, lambda k: (params(k), obs(k), memory(k))),
        f"poca.policy {variant}": Case(learner.policy, lambda k: (params(k), obs(k), memory(k))),
        f"poca.init {variant}": Case(learner.init, lambda k: (examples.key(k),)),
        f"poca.values {variant}": Case(
            lambda *seen: learner.values(*seen[:-1], mates=seen[-1]), valued
        ),
        f"poca.executed_log_prob {variant}": Case(
            learner.executed_log_prob, lambda k: (params(k), *imitated(k, 4, 3), *remembered(k))
        ),
        f"poca.observe {variant}": Case(
            learner.observe, lambda k: (learner.init(random.key(k)), obs(k), rows(k).mask)
        ),
        f"poca.update {variant}": Case(
            learner.update, lambda k: (learner.init(random.key(k)), batch(k)), step=True
        ),
        f"poca.trajectory_values {variant}": Case(
            learner.trajectory_values, lambda k: (params(k), alone(k), following(k, 3), done)
        ),
        f"poca.rollout_values {variant}": Case(
            learner.rollout_values, lambda k: (params(k), trajectory(k), following(k, 6, 3))
        ),
    }


def sac_cases_of(variant: str, **options) -> dict[str, Case]:
    return cases_of_sac(variant, examples.soft_learner(**options), **options)


def later_sac_cases_of(
    variant: str, *, target_critics: int | None = None, spec: Spec = examples.SPEC, **options
) -> dict[str, Case]:
    network = networks.soft_actor_critic(
        spec, value_network=False, hidden_units=8, num_layers=1, **options
    )
    learner = sac(network, spec, normalize=True, target_critics=target_critics)
    return cases_of_sac(
        variant, learner, spec=spec, memory_size=options.get("memory_size"), of_critic=3
    )


def cases_of_sac(
    variant: str, learner: Learner, *, of_critic: int = 1, **options
) -> dict[str, Case]:
    """Cases of a SAC; `of_critic` networks share what its critic remembers."""
    spec, size = options.get("spec", examples.SPEC), options.get("memory_size")
    leading = (4, 3) if size else (9,)

    def state(k: int):
        return learner.init(random.key(k))

    def batch(k: int):
        drawn = examples.soft_batch(100 * k, *leading, spec=spec, memory_size=size)
        resets = size and "resets" in variant
        flags = examples.normal(k + 7, *leading) > 1.0
        drawn = drawn._replace(reset=flags) if resets else drawn
        if "masked" in variant:
            drawn = drawn._replace(next_action_mask=drawn.action_mask)
        return drawn

    def seen(k: int, *rows: int):
        return examples.batch(100 * k, *rows, spec=spec).obs

    def memory(k: int, *rows: int):
        return examples.normal(k, *rows, size) if size else ()

    def trajectory(k: int):
        remembered = examples.normal(k, 3, of_critic * size) if size else ()
        return examples.trajectory(100 * k, 6, 3, memory=remembered, spec=spec)

    def imitation(k: int):
        rows = examples.transitions(100 * k, 4, 3, spec=spec)
        allowed = examples.normal(k, 4, 3, spec.action.choices) > -0.5
        return rows.obs, rows.action, allowed, memory(k, 3)

    done = torch.tensor([True, False, True])
    cases = {
        "init": Case(learner.init, lambda k: (examples.key(k),)),
        "act": Case(
            learner.act, lambda k: (state(k).params, seen(k, 9), memory(k, 9), examples.key(k))
        ),
        "greedy": Case(learner.greedy, lambda k: (state(k).params, seen(k, 9), memory(k, 9))),
        "policy": Case(learner.policy, lambda k: (state(k).params, seen(k, 9), memory(k, 9))),
        "observe": Case(
            learner.observe, lambda k: (state(k), seen(k, 9), examples.batch(k, 9).mask)
        ),
        "update": Case(learner.update, lambda k: (state(k), batch(k)), step=True),
        "executed_log_prob": Case(
            learner.executed_log_prob, lambda k: (state(k).params, *imitation(k))
        ),
        "trajectory_values": Case(
            learner.trajectory_values,
            lambda k: (state(k).params, trajectory(k), seen(k + 1, 3), done),
        ),
        "rollout_values": Case(
            learner.rollout_values, lambda k: (state(k).params, trajectory(k), seen(k + 1, 6, 3))
        ),
    }
    if not size:
        cases["values"] = Case(learner.values, lambda k: (state(k).params, seen(k, 9)))
    return {f"sac.{name} {variant}": case for name, case in cases.items()}


def only(cases: dict[str, Case], *names: str) -> dict[str, Case]:
    return {name: case for name, case in cases.items() if name.split()[0] in names}


def only_updates(cases: dict[str, Case]) -> dict[str, Case]:
    return only(cases, "sac.update")


CASES = {
    **sac_cases_of("hybrid"),
    **sac_cases_of("lstm", memory_size=6),
    **only_updates(sac_cases_of("lstm with resets", memory_size=6)),
    **only_updates(sac_cases_of("continuous", spec=CONTINUOUS, normalize=False)),
    **only_updates(sac_cases_of("discrete", spec=Spec(((4,),), ActionSpec(0, (3, 2))))),
    **only(later_sac_cases_of("without values, masked"), "sac.update", "sac.values"),
    **only_updates(
        later_sac_cases_of(
            "with a pair of normed critics",
            spec=CONTINUOUS,
            critics=3,
            target_critics=2,
            layer_norm=True,
        )
    ),
    **only(
        later_sac_cases_of(
            "lstm without values, one critic, resets", memory_size=6, target_critics=1
        ),
        "sac.update",
        "sac.trajectory_values",
        "sac.rollout_values",
    ),
    **poca_cases_of("of rows"),
    **poca_cases_of("of sequences", group_cases.M),
    **recurrent_cases_of("lstm"),
    **recurrent_cases_of("gru, burn-in"),
    "ppo.init": Case(PPO.init, lambda k: (examples.key(k),)),
    "ppo.act": Case(PPO.act, lambda k: (STATES[k].params, obs(k), (), examples.key(k))),
    "ppo.greedy": Case(PPO.greedy, lambda k: (STATES[k].params, obs(k), ())),
    "ppo.policy": Case(PPO.policy, lambda k: (STATES[k].params, obs(k), ())),
    "ppo.observe": Case(PPO.observe, lambda k: (STATES[k], obs(k), rows(k).mask)),
    "ppo.values": Case(PPO.values, lambda k: (STATES[k].params, obs(k))),
    "ppo.executed_log_prob": Case(
        PPO.executed_log_prob, lambda k: (STATES[k].params, *imitated(k, 9))
    ),
    "ppo.update with a stream that failed": Case(
        PPO.update, lambda k: (STATES[k], failed(k)), step=True
    ),
    "ppo.update": Case(PPO.update, lambda k: (STATES[k], rows(k)), step=True),
    "ppo.update continuous": Case(
        PPO_CONTINUOUS.update,
        lambda k: (
            PPO_CONTINUOUS.init(random.key(k)),
            examples.batch(100 * k, 9, spec=CONTINUOUS),
        ),
        step=True,
    ),
    "ppo.trajectory_values": Case(
        PPO.trajectory_values,
        lambda k: (
            STATES[k].params,
            examples.trajectory(100 * k, 6, 3),
            examples.batch(100 * k + 1, 3).obs,
            torch.tensor([True, False, k == 1]),
        ),
    ),
    "ppo.rollout_values": Case(
        PPO.rollout_values,
        lambda k: (
            STATES[k].params,
            examples.trajectory(100 * k, 6, 3),
            examples.batch(100 * k + 1, 6, 3).obs,
        ),
    ),
}
