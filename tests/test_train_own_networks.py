"""Runs with networks of the user's own: found by name, trained, resumed, refused in one line."""

import re

import chex
import pytest
import torch

from optinfra import demos, networks, settings
from optinfra.train import loop, own
from optinfra.train.errors import RunError
from optinfra.train.evaluate import evaluate
from tests.commands import assert_refused, leaves, optinfra, small_run
from tests.runs import saved_steps
from tests.test_train_signals import SPEC, demonstrations

CPU = torch.device("cpu")
OWN = "tests.own_networks"
SIZES = "network_settings: {hidden_units: 4, num_layers: 1}"
CONSTANT = "hyperparameters.learning_rate_schedule=constant"  # the others follow it
MEMORY = "network_settings.memory={memory_size: 6, sequence_length: 4}"
SAC = (
    "trainer_type=sac",
    "hyperparameters={batch_size: 8, buffer_size: 64, buffer_init_steps: 8, steps_per_update: 4, "
    "save_replay_buffer: true}",
)


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "expert.demo"
    demos.save(path, demonstrations(), name="expert", spec=SPEC)
    return path


def prepared(*assignments, **options):
    run = small_run(*assignments, **options)
    return loop.prepare(run, settings.choose_behavior(run)[0], CPU)


def assert_goes_on_bit_for_bit(tmp_path, *assignments, **options):
    """A run that ends in the middle and goes on ends as one that does not."""

    def trained(steps, **place):
        run = small_run(CONSTANT, *assignments, steps=steps, **options)
        loop.train(run, settings.choose_behavior(run)[0], device=CPU, **place)

    trained(64, chosen=tmp_path / "whole")
    trained(32, chosen=tmp_path / "run")
    (middle,), last = saved_steps(tmp_path / "run"), saved_steps(tmp_path / "whole")[-1]
    assert middle < last
    trained(64, resumed=tmp_path / "run")
    whole = leaves(tmp_path / "whole")
    chex.assert_trees_all_equal(leaves(tmp_path / "run"), whole)
    return whole


# --- trained ------------------------------------------------------------------------------------


def everything(expert):
    return (
        f"reward_signals={{extrinsic: {{}}, curiosity: {{{SIZES}}}, rnd: {{{SIZES}}}, "
        f"gail: {{demo_path: {expert}, use_actions: true, {SIZES}}}}}",
    )


def test_an_encoder_of_ones_own_is_in_every_network_and_signal_and_goes_on_bit_for_bit(
    tmp_path, expert
):
    asked = (f"optinfra.encoder={OWN}:encoder", *everything(expert))
    held = assert_goes_on_bit_for_bit(tmp_path, *asked)
    place = "encoders.0.module.1.weight"
    there = sorted(name for name in held if name.endswith(place) and "/opt/" not in name)
    owners = ("learner/params/weights/actor", "learner/params/weights/critic",
              "signals/curiosity/weights", "signals/gail/weights", "signals/rnd/target",
              "signals/rnd/weights")  # fmt: skip
    assert len(there) == len(owners)
    assert all(name.startswith(f"iteration/{one}") for name, one in zip(there, owners))
    known = evaluate(tmp_path / "run", episodes=2, stochastic=False, seed=1, device=CPU)
    assert known.steps == 64


def test_a_body_of_ones_own_takes_the_place_of_all_layers(tmp_path):
    held = assert_goes_on_bit_for_bit(tmp_path, f"optinfra.body={OWN}:body")
    place = "iteration/learner/params/weights/"
    names = [name.removeprefix(place) for name in held if name.startswith(place)]
    bodies = {name.rpartition(".")[0] for name in names if ".body." in name}
    assert bodies == {f"{part}.body.module.layers.{i}" for part in ("actor", "critic")
                      for i in (0, 1, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "assignments"),
    [("ppo", (MEMORY,)), ("sac", SAC), ("poca", ("trainer_type=poca",))],
)
def test_a_network_of_ones_own_is_trained_and_goes_on_bit_for_bit(tmp_path, name, assignments):
    streams = f"reward_signals={{extrinsic: {{}}, rnd: {{{SIZES}}}}}"
    env = {"env": "tensor:Escape-v0"} if name == "poca" else {}
    asked = (f"optinfra.network={OWN}:network", streams, *assignments)
    held = assert_goes_on_bit_for_bit(tmp_path, *asked, **env)
    weights = [n for n in held if "learner/params/weights/" in n]
    assert any("heads.rnd.weight" in n for n in weights) and any("layer" in n for n in weights)
    assert not any(".body.layers" in n for n in weights)


def test_a_network_of_ones_own_is_told_what_it_is_for(monkeypatch):
    seen = []

    def network(asked):
        seen.append(asked)
        return original(asked)

    from tests import own_networks

    original = own_networks.network
    monkeypatch.setattr(own_networks, "network", network)
    prepared(f"optinfra.network={OWN}:network", "reward_signals={extrinsic: {}, rnd: {}}", MEMORY)
    (asked,) = seen
    assert asked.spec == SPEC and asked.streams == ("extrinsic", "rnd")
    assert asked.settings.network_settings.memory.memory_size == 6
    assert isinstance(asked, own.Asked) and asked.own.network == f"{OWN}:network"


def test_without_names_networks_are_the_usual_ones():
    names = prepared().start.iteration.learner.params.weights
    assert "actor.body.layers.0.weight" in names


def test_what_settings_say_of_images_and_goals_reaches_networks_and_signals():
    """`Sights` shows a picture and a goal; each network reads them as its own settings say."""
    sizes = "hidden_units: 4, num_layers: 2"
    signal = f"{{{sizes}, vis_encode_type: match3, goal_conditioning_type: none}}"
    training = prepared(
        "network_settings.vis_encode_type=resnet",
        f"reward_signals={{extrinsic: {{}}, curiosity: {{network_settings: {signal}}}, "
        f"rnd: {{network_settings: {{{sizes}}}}}}}",
        "optinfra.max_entities=4",
        env="tests.tiny_envs:tiny/Sights-v0",
    )
    training.source.close()
    start = training.start.iteration
    signals = start.signals
    kinds = {
        "resnet": (start.learner.params.weights, "actor.body."),
        "match3": (signals["curiosity"].weights, "encoder."),
        "simple": (signals["rnd"].weights, ""),
    }
    for kind, (weights, prefix) in kinds.items():
        image = networks.IMAGE_ENCODERS[kind]((3, 20, 21), 4)
        own = {f"{prefix}encoder.encoders.2.{n}": w.shape for n, w in image.named_parameters()}
        there = {n: w.shape for n, w in weights.items() if f"{prefix}encoder.encoders." in n}
        assert {n: x for n, x in there.items() if n.startswith(prefix)} == own
        hyper = any(n.startswith(f"{prefix}layers.1.weights.") for n in weights)
        assert hyper == (kind != "match3")


def test_an_encoder_of_ones_own_leaves_the_rest_to_the_usual_ones():
    training = prepared(
        f"optinfra.encoder={OWN}:encoder",
        "optinfra.max_entities=4",
        env="tests.tiny_envs:tiny/Sights-v0",
    )
    training.source.close()
    weights = training.start.iteration.learner.params.weights
    encoders = {n.split(".encoder.")[1] for n in weights if n.startswith("actor.body.encoder.")}
    assert {n for n in encoders if n.startswith("encoders.")} == {
        f"encoders.2.module.{i}.{part}" for i in (1, 4, 5) for part in ("weight", "bias")
    }
    assert "entities.itself.weight" in encoders


# --- refused ------------------------------------------------------------------------------------

REFUSED = [
    ("encoder=no_such_package.nets:make", "cannot import no_such_package. Install it, or put its "
     "folder in PYTHONPATH."),
    (f"encoder={OWN}.deeper:make", f"cannot import {OWN}.deeper"),
    (f"encoder={OWN}", "expected `package.module:function`, got 'tests.own_networks'."),
    (f"body='{OWN}:'", "expected `package.module:function`, got 'tests.own_networks:'."),
    ("network=':make'", "expected `package.module:function`, got ':make'."),
    (f"body={OWN}:no_such", f"`{OWN}` has no function called no_such."),
    (f"network={OWN}:NO_FUNCTION", f"`{OWN}` has no function called NO_FUNCTION."),
    (f"encoder={OWN}:raising", "LookupError: no layer today"),
    (f"body={OWN}:raising", "LookupError: no layer today"),
    (f"network={OWN}:raising", "LookupError: no layer today"),
    (f"encoder={OWN}:number", f"expected a torch.nn.Module from {OWN}:number, got int."),
    (f"body={OWN}:nothing", f"expected a torch.nn.Module from {OWN}:nothing, got NoneType."),
    (f"network={OWN}:number", "expected networks.ActorCritic or networks.RecurrentActorCritic "
     f"from {OWN}:number, got int."),
    (f"network={OWN}:nothing", "expected networks.ActorCritic or networks.RecurrentActorCritic "
     f"from {OWN}:nothing, got NoneType."),
    (f"network={OWN}:always_recurrent", "expected one that remembers nothing, as "
     f"network_settings.memory has it, from {OWN}:always_recurrent, got a network that remembers."),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_what_cannot_be_made_is_told_in_one_line_by_its_setting(asked, message):
    setting = asked.partition("=")[0]
    with pytest.raises(RunError, match=rf"^optinfra\.{setting}: {re.escape(message)}") as error:
        prepared(f"optinfra.{asked}")
    assert "\n" not in str(error.value)


def test_a_whole_network_is_of_the_kind_that_its_trainer_takes():
    kinds = {"SoftActorCritic": SAC, "GroupActorCritic": ("trainer_type=poca",)}
    for kind, assignments in kinds.items():
        env = {"env": "tensor:Escape-v0"} if kind.startswith("Group") else {}
        message = f"expected networks.{kind} from {OWN}:always_forgetful, got ActorCritic."
        with pytest.raises(RunError, match=f"^optinfra.network: {message}$"):
            prepared(f"optinfra.network={OWN}:always_forgetful", *assignments, **env)


def test_a_network_that_forgets_is_not_taken_for_one_that_remembers():
    message = "expected a network that remembers, as network_settings.memory has it, from "
    with pytest.raises(RunError, match=rf"^optinfra\.network: {message}.*, got one that remembers"):
        prepared(f"optinfra.network={OWN}:always_forgetful", MEMORY)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("narrow", "got [2, 3] from 2 rows"),
        ("confused", "got RuntimeError: mat1 and mat2 shapes"),
        ("batch_norm", "got TypeError: `1` must be a pure function of single rows"),
    ],
)
def test_an_encoder_that_does_not_work_is_told_in_one_line_by_its_observation(tmp_path, name, got):
    done = optinfra(
        "train", "--env", "tensor:CartPole-v1", "--run-dir", tmp_path / "run", "--set",
        "network_settings.hidden_units=4", "--set", f"optinfra.encoder={OWN}:{name}",
    )  # fmt: skip
    told = "`encoder of obs[0]` must be a module from rows of (4,) to [N, 4], "
    assert_refused(done, told + got)
    assert not (tmp_path / "run").exists()


def test_a_module_that_breaks_when_it_is_imported_is_told_by_its_setting(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_networks.py").write_text("import no_such_layers")
    (tmp_path / "raising_networks.py").write_text("raise RuntimeError('one\\ntwo')")
    with pytest.raises(RunError, match=r"^optinfra\.body: ModuleNotFoundError: .*no_such_layers"):
        prepared("optinfra.body=broken_networks:body")
    with pytest.raises(RunError, match=r"^optinfra\.body: RuntimeError: one two$"):
        prepared("optinfra.body=raising_networks:body")
