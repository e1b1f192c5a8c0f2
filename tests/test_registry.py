"""Nothing public in the core is without its contract cases."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import get_origin, get_type_hints

import pytest

CORE = [  # rooms of pure functions; cases of `optinfra.<room>` are in `tests/cases/<last part>.py`
    "random", "returns", "losses", "distributions", "schedules", "moments", "transforms",
    "networks", "signals", "learners", "lift", "iteration", "envs", "train.collect",
    "train.collect_groups", "sequences", "values", "memory", "imitation", "replay", "rollout",
    "streams", "off_policy", "credit",
]  # fmt: skip
# What has no case of its own, and why.
COMBINATOR = "takes functions and returns functions; its laws are in tests/test_lift.py"
NO_TENSORS = "neither takes nor returns a tensor"
PART = "composed into actor_critic or shared_actor_critic, whose cases run it"
SHELL = "builds an environment by its name"
LEARNERS_OWN = "the learner's own function, unchanged"
STATIC = "takes no tensor: there is nothing to lift"
EXEMPT = {
    "lift.compiled": COMBINATOR,
    "lift.ensemble": COMBINATOR,
    "lift.members": "undoes stacking: its result is a Python list, not a tree of tensors",
    **{
        f"lift.epochs.{field}": LEARNERS_OWN
        for field in (
            "init", "memories", "act", "greedy", "policy", "observe", "values",
            "trajectory_values", "rollout_values", "executed_log_prob",
        )
    },
    "lift.cloning_epochs.init": "the imitation's own function, unchanged",
    **{
        f"networks.{name}.{field}": PART
        for name in ("separate", "shared")
        for field in ("init", "policy", "values", "policy_and_values")
    },
    **{
        f"networks.orthogonal_initialization.{part}": "an initializer that has a case"
        for part in ("body", "policy", "values")
    },
    **{
        f"networks.{name}.{field}": PART
        for name in ("separate_recurrent", "shared_recurrent", "without_memory")
        for field in (
            "init", "memories", "policy", "values", "values_and_memories", "policy_and_values",
        )
    },
    **{
        f"{name}.memories": STATIC
        for name in (
            "networks.recurrent_actor_critic", "networks.shared_recurrent_actor_critic",
            "networks.soft_actor_critic", "networks.group_actor_critic",
            "learners.ppo", "learners.sac", "learners.poca",
        )
    },
    "sequences.starts": NO_TENSORS,
    "rollout.check_rollout": "returns nothing; its refusals are in tests/test_iteration.py",
    **{
        f"streams.{name}": "composed into iteration and off_policy, whose cases run it"
        for name in (
            "beginning", "no_failures", "pupils", "counted", "numbers",
            "prefixed", "require_streams",
        )
    },
    "train.collect.remembers_nothing": STATIC,
    "networks.name_hash": NO_TENSORS,
    "networks.part": PART,
    "networks.whole": "composed into rnd and gail, whose cases run it",
    "networks.body": PART,
    **{
        f"networks.{name}": "describes an encoder, which cases of actor_critic run"
        for name in ("simple", "nature_cnn", "match3", "fully_connected", "resnet")
    },
    "networks.require_observations": NO_TENSORS,
    "networks.pretrained": NO_TENSORS,
    **{
        f"networks.separate_soft.{field}": "composed into soft_actor_critic, whose cases run it"
        for field in (
            "init", "memories", "policy", "values", "policy_and_memories", "values_and_memories",
            "action_values", "action_values_and_memories",
        )
    },
    **{
        f"networks.separate_group.{field}": "composed into group_actor_critic, whose cases run it"
        for field in (
            "init", "memories", "policy", "values", "baselines", "values_and_memories",
            "baselines_and_memories", "values_and_baselines",
        )
    },
    "envs.make": SHELL,
    "train.collect.every_choice": STATIC,
    "train.collect.in_sequence": "takes a function; the cases of both collectors run what it makes",
    **{
        f"schedules.{name}.init": STATIC
        for name in ("constant", "linear", "linear_to_floor", "cosine", "piecewise_constant",
                     "warmup", "join")
    },
}  # fmt: skip


def public_functions(room):
    """Functions that a package's façade shows, or that a module defines."""
    module = importlib.import_module(f"optinfra.{room}")
    for name, function in vars(module).items():
        own = function_home(function).startswith(module.__name__)
        if own and inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


def function_home(x):
    return getattr(x, "__module__", None) or ""


def functions_of_record(kind):
    """Names of the functions of a record such as `Learner`; none for anything else."""
    if not (inspect.isclass(kind) and hasattr(kind, "_fields")):
        return []
    return [n for n, hint in get_type_hints(kind).items() if get_origin(hint) is Callable]


def required(room):
    """`room.function`, or `room.factory.field` for each function that a factory makes."""
    for name, function in public_functions(room):
        fields = functions_of_record(get_type_hints(function).get("return"))
        yield from ([f"{room}.{name}.{field}" for field in fields] or [f"{room}.{name}"])


def cases_of(room):
    return importlib.import_module(f"tests.cases.{room.rpartition('.')[2]}").CASES


def registered(room):
    """Cases without what tells variants apart: `ppo.update continuous` is one of `ppo.update`."""
    return {f"{room}.{name.split()[0]}" for name in cases_of(room)}


@pytest.mark.parametrize("room", CORE)
def test_every_public_function_has_a_case(room):
    names = set(required(room))
    assert names, "nothing public was found: the rule that finds it is broken"
    assert sorted(names - registered(room) - EXEMPT.keys()) == []


@pytest.mark.parametrize("room", CORE)
def test_every_case_is_of_a_public_function(room):
    assert sorted(registered(room) - set(required(room))) == []


def test_every_exemption_is_needed():
    names = {name for room in CORE for name in required(room)}
    cases = {name for room in CORE for name in registered(room)}
    assert sorted(EXEMPT.keys() - names) == []
    assert sorted(EXEMPT.keys() & cases) == []


def code_run_by(case):
    """Every code object entered during one call."""
    seen, before = set(), sys.getprofile()
    arguments = case.arguments(0)
    sys.setprofile(lambda frame, event, argument: seen.add(frame.f_code))
    try:
        case.function(*arguments)
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize("room", CORE)
def test_a_case_runs_the_function_whose_name_it_bears(room):
    functions = dict(public_functions(room))
    for name, case in cases_of(room).items():
        function = functions[name.split()[0].split(".")[0]]
        if "return" in get_type_hints(function) and made_by_a_factory(function):
            continue  # then other code runs than that which was named
        assert function.__code__ in code_run_by(case), name


def made_by_a_factory(function):
    kind = get_type_hints(function)["return"]
    return bool(functions_of_record(kind)) or get_origin(kind) is Callable
