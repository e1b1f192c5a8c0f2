"""Memories on their way: through collectors, runs that stop and go on, and evaluations."""

import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import checkpoint, envs, random, sequences, settings, tree
from optinfra.envs import cartpole
from optinfra.iteration import iteration
from optinfra.lift import ensemble, members
from optinfra.lift.epochs import unlifted
from optinfra.signals import extrinsic
from optinfra.testing import assert_trees_close, assert_trees_equal
from optinfra.train import build, evaluate, folders, loop
from optinfra.train.collect import collector
from optinfra.train.sources import GymnasiumSource, TensorSource
from optinfra.types import Act, Action
from tests import examples
from tests.commands import leaves, small_run
from tests.tiny_envs import Countdown, tiny

COUNTDOWN = "tests.tiny_envs:tiny/Countdown-v0"
CPU = torch.device("cpu")
MEMORY = "network_settings.memory={sequence_length: 3, memory_size: 4}"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def counting(params, obs, memory, key):
    """Remember how many steps an episode has had, in each of two numbers."""
    choices = random.randint(key, (len(obs[0]), 1), 0, 2)
    action = Action(torch.zeros(len(obs[0]), 0), choices)
    return Act(action, action, memory + params, memory + 1.0)


def counting_from(rows, device):
    return torch.zeros(*rows, 2, device=device)


def gymnasium_source(vector, policy, steps, remember):
    return GymnasiumSource(
        vector, policy, num_steps=steps, stage=unlifted, seed=0, remember=remember
    )


# --- collectors -------------------------------------------------------------------------------


@given(
    st.integers(1, 4), st.booleans(), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31)
)
def test_a_tensor_collector_records_what_the_policy_remembered_before_each_step(
    length, truncates, copies, steps, seed
):
    env = tiny(lambda place, choice: place, length=length, truncates=truncates)
    collecting = collector(env, counting, num_envs=copies, num_steps=steps, remember=counting_from)
    state = collecting.init(random.key(seed))
    assert torch.equal(state.memory, torch.zeros(copies, 2))
    for part in range(2):  # what is remembered goes on across rollouts
        state, (rollout, episodes) = collecting.collect(state, torch.tensor(0.5))
        age = (torch.arange(steps) + part * steps) % length
        assert torch.equal(rollout.memory, age[:, None, None].expand(-1, copies, 2).float())
        assert torch.equal(rollout.memory[..., 0], episodes.lengths - 1.0)
        assert torch.equal(rollout.log_prob, rollout.memory + 0.5), "acted on something else"
        assert torch.equal(state.memory[:, 0], (age[-1] + 1.0).expand(copies) % length)


@pytest.mark.parametrize("truncates", [False, True])
def test_a_gymnasium_source_records_what_the_policy_remembered_before_each_step(truncates):
    Countdown.made = 0  # copy k ends after 2 + k mod 3 steps
    vector = envs.make(COUNTDOWN, 3, env_kwargs={"truncates": truncates})
    source = gymnasium_source(vector, counting, 5, counting_from)
    state, limits = source.init(random.key(0)), torch.tensor([2, 3, 4])
    for part in range(2):
        state, rollout, _ = source.collect(state, torch.tensor(0.5))
        age = (torch.arange(5)[:, None] + 5 * part) % limits
        assert torch.equal(rollout.memory[..., 0], age.float()) and rollout.mask.all()
        assert torch.equal(rollout.log_prob, rollout.memory + 0.5)
    source.init(random.key(0))  # begins anew with nothing
    _, rollout, _ = source.collect(state, torch.tensor(0.5))
    assert not rollout.memory[0].any()
    source.close()


def test_nothing_is_remembered_of_a_row_that_is_no_transition():
    source = gymnasium_source(envs.make("CartPole-v1", 4), counting, 60, counting_from)
    state, rollout, _ = source.collect(source.init(random.key(0)), torch.tensor(0.0))
    over = rollout.terminated | rollout.truncated | ~rollout.mask
    assert (~rollout.mask).any() and not rollout.memory[0].any()
    expected = torch.where(over[:-1, :, None], 0.0, rollout.memory[:-1] + 1)
    assert torch.equal(rollout.memory[1:], expected)
    _, later, _ = source.collect(state, torch.tensor(0.0))
    expected = torch.where(over[-1, :, None], 0.0, rollout.memory[-1] + 1)
    assert torch.equal(later.memory[0], expected)
    source.close()


def remembering(learner):
    return lambda rows, device: learner.memories(rows, device).actor


def learning_at_once(learner, agents, steps, length, burn_in):
    """One epoch of one minibatch of all sequences."""
    count = agents * len(sequences.starts(steps, length, burn_in))
    return iteration(
        learner, {"extrinsic": extrinsic()}, num_epochs=1, batch_size=count * length,
        sequence_length=length, burn_in=burn_in, num_agents=agents,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("made", ["tensor", "gymnasium"])
@pytest.mark.parametrize("length, burn_in", [(1, 0), (4, 0), (5, 2), (40, 0)])
def test_the_first_update_finds_the_policy_that_acted(made, kind, length, burn_in):
    """Every ratio is 1: sequences start from the memories of acting, and end where it did."""
    agents, steps = 3, 12
    env = cartpole(time_limit=5) if made == "tensor" else envs.make("CartPole-v1", agents)
    learner = examples.recurrent_learner(env.spec, kind, burn_in=burn_in, normalize=False)
    one = learning_at_once(learner, agents, steps, length, burn_in)
    state = one.init(random.key(1))
    params = state.learner.params
    if made == "tensor":
        source = TensorSource(
            env, learner.act, num_envs=agents, num_steps=steps, stage=unlifted,
            remember=remembering(learner),
        )  # fmt: skip
    else:
        source = gymnasium_source(env, learner.act, steps, remembering(learner))
    place, rollouts = source.init(random.key(2)), []
    for _ in range(2):
        place, rollout, _ = source.collect(place, params)
        rollouts.append(rollout)
    source.close()
    memory = state.memory
    for rollout in rollouts:  # by the weights that acted, whatever the first update did to them
        after, stats = one.update(state._replace(memory=memory), rollout)
        memory = after.memory
        assert stats["clip_fraction"] == 0.0
        torch.testing.assert_close(stats["approx_kl"], torch.tensor(0.0), rtol=0, atol=1e-9)
        assert rollout.memory.any() and memory.any()


def test_an_ensemble_of_collectors_that_remember_is_a_loop_over_them():
    env = cartpole(time_limit=3)
    learner = examples.recurrent_learner(env.spec)
    parts = {"num_envs": 2, "num_steps": 4, "remember": remembering(learner)}
    alone, many = (collector(env, learner.act, **parts, stage=s) for s in (unlifted, ensemble))
    keys = random.split(random.key(1), 3)
    states, params = ensemble(alone.init)(keys), ensemble(learner.init)(keys).params
    together = many.collect(states, params)
    each = [alone.collect(s, p) for s, p in zip(members(states), members(params))]
    assert_trees_close(together, tree.stack(each), **CLOSE)
    assert together[1][0].memory.shape == (3, 4, 2, 6)


# --- runs -------------------------------------------------------------------------------------


def trained(folder, *assignments, resume=False, **options):
    run = small_run(MEMORY, *assignments, **options)
    where = {"resumed" if resume else "chosen": folder}
    return loop.train(run, settings.choose_behavior(run)[0], device=CPU, **where)


@pytest.mark.parametrize("cell, burn_in", [("lstm", 1), ("gru", 0)])
def test_a_run_on_tensors_goes_on_bit_for_bit_with_what_was_remembered(tmp_path, cell, burn_in):
    options = (f"optinfra.recurrent_cell={cell}", f"optinfra.burn_in={burn_in}")
    trained(tmp_path / "whole", *options, steps=96)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    saved = sorted((tmp_path / "killed" / folders.CHECKPOINTS).iterdir(), key=checkpoint.step_of)
    assert [checkpoint.step_of(path) for path in saved] == [48, 96]
    saved[-1].unlink()
    before = leaves(tmp_path / "killed")
    assert before["iteration/memory"].shape == (4, 4) and before["iteration/memory"].any()
    assert before["source/memory"].shape == (4, 4) and before["source/memory"].any()
    trained(tmp_path / "killed", *options, steps=96, resume=True)
    assert_trees_equal(leaves(tmp_path / "killed"), leaves(tmp_path / "whole"))


def test_a_run_on_gymnasium_goes_on_with_what_was_learnt_and_forgets_the_rest(tmp_path):
    folder = tmp_path / "run"
    trained(folder, steps=32, env="CartPole-v1")
    before = leaves(folder)
    assert before["iteration/memory"].any()
    run = small_run(MEMORY, steps=64, env="CartPole-v1")
    training, state = loop._prepared(run, settings.choose_behavior(run)[0], CPU, folder)
    assert not state.iteration.memory.any() and state.iteration.memory.shape == (4, 4)
    assert not training.source._memory.any()
    learnt = ("iteration/learner/params", "iteration/learner/opt", "iteration/learner/key")
    kept = {name: x for name, x in before.items() if name.startswith(learnt)}
    assert_trees_equal({name: tree.named_leaves(state)[name] for name in kept}, kept)
    training.source.close()
    assert trained(folder, steps=64, env="CartPole-v1", resume=True).steps == 64


@pytest.mark.parametrize("env, limits", [
    ("tensor:Recall-v0", [18, 18, 18]), (COUNTDOWN, [2, 3, 4]),
])  # fmt: skip
def test_who_is_evaluated_remembers_its_own_episode(tmp_path, env, limits, monkeypatch):
    folder, seen = tmp_path / "run", []
    trained(folder, steps=16, env=env)
    original = build.learner

    def learner(*arguments, **options):
        made = original(*arguments, **options)

        def greedy(params, obs, memory):
            seen.append(memory)
            return made.greedy(params, obs, memory)._replace(memory=memory + 1)

        return made._replace(greedy=greedy)

    monkeypatch.setattr(build, "learner", learner)
    Countdown.made = -4  # the run's 4 environments are made first, to learn its spec
    result = evaluate.evaluate(folder, episodes=3, stochastic=False, seed=0, device=CPU)
    assert len(result.returns) == 3
    ages = torch.stack(seen)
    expected = torch.arange(len(seen))[:, None] % torch.tensor(limits)
    assert torch.equal(ages, expected[..., None].expand(-1, -1, 4).float())


def test_an_evaluation_is_of_the_weights_and_of_what_they_remember(tmp_path):
    folder = tmp_path / "run"
    trained(folder, steps=32)
    results = [
        evaluate.evaluate(folder, episodes=4, stochastic=stochastic, seed=3, device=CPU)
        for stochastic in (False, False, True)
    ]
    assert results[0] == results[1] and results[0] != results[2]
    assert all(1.0 <= x <= 500.0 for result in results for x in result.returns)
