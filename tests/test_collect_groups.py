"""Collecting from groups: what comes from tensors and from PettingZoo, agents coming and going."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optinfra import envs, networks, random, tree
from optinfra.envs import Episode, GroupEnv, GroupStep, PettingZooGroups, escape
from optinfra.iteration import iteration
from optinfra.learners import poca
from optinfra.lift import ensemble, members
from optinfra.lift.epochs import unlifted
from optinfra.rollout import mates_of
from optinfra.signals import extrinsic
from optinfra.testing import assert_trees_close, assert_trees_equal
from optinfra.train.collect_groups import group_collector
from optinfra.train.errors import RunError
from optinfra.train.group_sources import PettingZooSource, TensorGroupSource
from optinfra.types import Act, Action, ActionSpec, Spec
from tests import group_cases

STAY, LEAVE, FINISH = range(3)
JOINS = 2  # the step after which the last agent of a camp appears
CREW = "pettingzoo:tests.test_pettingzoo"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class CampState(NamedTuple):
    """Where a camp stands."""

    place: Tensor  # [] float32, what an episode began with
    steps: Tensor  # [] int64
    present: Tensor  # [A] bool


def camp(agents, limit):
    """Agents leave or end the episode as they choose; the last comes late, and once a day.

    What is told of absent agents is what no formula survives.
    """

    def observe(state, seeing):
        slot = torch.arange(agents).float()
        seen = torch.stack(torch.broadcast_tensors(state.place, state.steps.float(), slot), -1)
        return (torch.where(seeing[:, None], seen, torch.nan),)

    def reset(key):
        place = random.uniform(key, ())
        present = torch.arange(agents) < max(agents - 1, 1)
        state = CampState(place, torch.zeros((), dtype=torch.int64), present)
        return state, observe(state, present), present

    def step(state, action, key):
        del key
        choice, there = action.discrete[..., 0], state.present
        steps = state.steps + 1
        joins = (torch.arange(agents) == agents - 1) & (steps == JOINS) & ~there
        present = (there & (choice != LEAVE)) | joins
        after = CampState(state.place, steps, present)
        paid = torch.where(there, torch.arange(agents) + 0.5, torch.nan)
        finished = (there & (choice == FINISH)).any(-1) | ~present.any(-1)
        return GroupStep(
            after, observe(after, there | joins), paid, 100.0 * steps, present, finished,
            steps >= limit,
        )  # fmt: skip

    return GroupEnv(Spec(((3,),), ActionSpec(branches=(3,))), agents, reset, step)


def counting(params, obs, memory, key):
    """Draw a choice, let its successor be executed, remember how many steps there were."""
    rows = obs[0].shape[:-1]
    drawn = random.randint(key, (*rows, 1), 0, 3)
    nothing = torch.zeros(*rows, 0)
    shown = memory + params
    return Act(Action(nothing, drawn), Action(nothing, (drawn + 1) % 3), shown, memory + 1.0)


def counting_from(rows, device):
    return torch.zeros(*rows, 2, device=device)


def collecting(agents=3, limit=4, *, groups=2, steps=5, policy=counting, stage=unlifted):
    return group_collector(
        camp(agents, limit), policy, num_envs=groups, num_steps=steps, stage=stage,
        remember=counting_from,
    )  # fmt: skip


# --- collectors -------------------------------------------------------------------------------


class Followed:
    """One group, stepped by hand along the actions of a rollout, agent by agent."""

    def __init__(self, env, obs):
        self.env = env
        self.begin(obs)
        self.ages = [0] * env.agents

    def begin(self, obs):
        there = torch.arange(self.env.agents) < max(self.env.agents - 1, 1)
        place = obs[0][0, 0]
        self.state = CampState(place, torch.tensor(0), there)
        self.obs, self.total, self.length = obs[0], 0.0, 0

    def step(self, at, episodes, first):
        """Compare one step; `first` are the observations that would begin an episode."""
        there, before = self.state.present.tolist(), self.obs
        executed = Action(torch.zeros(self.env.agents, 0), (at.action.discrete + 1) % 3)
        assert torch.equal(at.executed.discrete, executed.discrete)
        then = self.env.step(self.state, executed, random.key(0))
        over = bool(then.terminated | then.truncated)
        self.length += 1
        self.total += float(then.group_reward)
        for i, present in enumerate(there):
            left = present and not then.present[i]
            assert bool(at.mask[i]) == present
            assert bool(at.terminated[i]) == (left or (present and bool(then.terminated)))
            assert bool(at.truncated[i]) == (present and bool(then.truncated))
            assert bool(at.group.next_mask[i]) == bool(then.present[i])
            assert bool(at.group.ended[i]) == bool(then.terminated)
            assert at.group.rewards[i] == then.group_reward
            assert (at.memory[i] == self.ages[i]).all() and (at.log_prob[i] == self.ages[i]).all()
            goes_on = present and bool(then.present[i]) and not over
            self.ages[i] = self.ages[i] + 1 if goes_on else 0
            assert at.rewards[i] == (i + 0.5 if present else 0.0)
            self.total += i + 0.5 if present else 0.0
            if present:
                assert torch.equal(at.obs[0][i], before[i])
                assert torch.equal(at.next_obs[0][i], then.obs[0][i])
        assert (bool(episodes.ended), int(episodes.lengths)) == (over, self.length)
        assert float(episodes.returns) == self.total
        self.state, self.obs = then.state, then.obs[0]
        if over:
            self.begin(first)
            assert float(self.state.place) != float(then.state.place), "the same start again"


@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 6),
    st.integers(0, 2**31),
)  # fmt: skip
def test_collected_steps_are_those_of_following_each_group_by_hand(
    agents, limit, groups, steps, seed
):
    env = camp(agents, limit)
    one = collecting(agents, limit, groups=groups, steps=steps)
    state = one.init(random.key(seed))
    followed = [Followed(env, tree.take(state.acting.obs, b)) for b in range(groups)]
    for _ in range(2):  # the second rollout goes on where the first one ended
        state, (rollout, episodes) = one.collect(state, torch.tensor(0.0))
        assert rollout.action_mask.shape == (steps, groups, agents, 3) and rollout.action_mask.all()
        for b, group in enumerate(followed):
            own, told = (tree.take(x, (slice(None), b)) for x in (rollout, episodes))
            for t in range(steps):
                last = t + 1 == steps
                first = tree.take(state.acting.obs, b) if last else tree.take(own.obs, t + 1)
                group.step(tree.take(own, t), tree.take(told, t), first)
            assert torch.equal(state.acting.present[b], group.state.present)
            assert state.acting.memory[b, :, 0].tolist() == group.ages
            assert (float(state.returns[b]), int(state.lengths[b])) == (group.total, group.length)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_collecting_twice_is_collecting_once_for_longer(first, second, seed):
    def collect(steps, state):
        one = collecting(limit=3, steps=steps)
        state, record = one.collect(state or one.init(random.key(seed)), torch.tensor(0.0))
        return tree.map(torch.nan_to_num, (state, record))

    middle, one = collect(first, None)
    end, other = collect(second, middle)
    in_parts = tree.map(lambda x, y: torch.cat([x, y]), one, other)
    assert_trees_equal((end, in_parts), collect(first + second, None))


def test_what_absent_agents_are_shown_and_do_changes_nothing():
    """An agent that is not there draws like the others; whatever it draws, the rest is the same."""

    def collect(spoiled):
        def policy(params, obs, memory, key):
            act = counting(params, tree.map(torch.nan_to_num, obs), memory, key)
            absent = obs[0][..., :1].isnan()
            discrete = torch.where(absent, spoiled, act.action.discrete)
            action = act.action._replace(discrete=discrete)
            executed = action._replace(discrete=(discrete + 1) % 3)
            return act._replace(action=action, executed=executed)

        one = collecting(4, 6, groups=3, steps=20, policy=policy)
        state, (rollout, episodes) = one.collect(one.init(random.key(4)), torch.tensor(0.0))
        assert not rollout.mask.all()
        rollout = tree.where(rollout.mask, rollout, tree.map(torch.zeros_like, rollout))
        return rollout, episodes, state.returns

    assert_trees_equal(collect(STAY), collect(FINISH))


def test_every_draw_every_step_and_every_start_has_a_key_of_its_own():
    def reset(key):
        return (), (key.float()[None],), torch.ones(1, dtype=torch.bool)

    def step(state, action, key):
        ended = torch.ones((), dtype=torch.bool)
        there, nothing = torch.ones(1, dtype=torch.bool), torch.zeros(())
        return GroupStep(state, (key.float()[None],), nothing[None], nothing, there, ended, ~ended)

    def keyed(params, obs, memory, key):
        act = counting(params, obs, memory, key)
        return act._replace(log_prob=key.expand(*obs[0].shape[:-1], 2))

    env = GroupEnv(Spec(((2,),), ActionSpec(branches=(3,))), 1, reset, step)
    one = group_collector(env, keyed, num_envs=3, num_steps=4, remember=counting_from)
    begin = one.init(random.key(3))
    end, (rollout, _) = one.collect(begin, torch.tensor(0.0))
    drawn = rollout.log_prob[:, 0, 0]
    of_envs = [rollout.obs[0].flatten(0, 2), rollout.next_obs[0].flatten(0, 2)]
    keys = torch.cat([begin.key[None], drawn, end.key[None]])
    keys = torch.cat([keys.float(), *of_envs, end.acting.obs[0].flatten(0, 1)])
    assert len(keys.unique(dim=0)) == len(keys) == 6 + 12 + 12 + 3
    # nor does an environment draw from a key that is the policy's
    below = [random.split(each, 2) for at in drawn.long() for each in random.split(at, 3)]
    both = torch.cat([*below, *of_envs]).float()
    assert len(both.unique(dim=0)) == len(both)


def test_an_ensemble_of_collectors_is_a_loop_over_them_with_members_before_time():
    env = escape(agents=3, rows=1, columns=3, time_limit=5)
    learner = group_cases.learner(memory_size=4, spec=env.spec)
    parts = {"num_envs": 2, "num_steps": 4, "remember": remembering(learner)}
    alone, many = (
        group_collector(env, learner.act, **parts, stage=s) for s in (unlifted, ensemble)
    )
    keys = random.split(random.key(1), 3)
    states, params = ensemble(alone.init)(keys), ensemble(learner.init)(keys).params
    together = many.collect(states, params)
    each = [alone.collect(s, p) for s, p in zip(members(states), members(params))]
    assert_trees_close(together, tree.stack(each), **CLOSE)
    assert together[1][0].rewards.shape == (3, 4, 2, 3) and together[1][1].ended.shape == (3, 4, 2)


def remembering(learner):
    return lambda rows, device: learner.memories(rows, device).actor


# --- sources ----------------------------------------------------------------------------------


def test_tensor_groups_list_the_episodes_that_ended_in_the_order_of_time():
    def staying(params, obs, memory, key):
        act = counting(params, obs, memory, key)
        return act._replace(executed=tree.map(torch.zeros_like, act.executed))

    source = TensorGroupSource(
        camp(3, 4), staying, num_envs=2, num_steps=9, stage=unlifted, remember=counting_from
    )
    assert source.exact and source.lanes == 2 and source.close() is None
    _, rollout, ended = source.collect(source.init(random.key(0)), torch.tensor(0.0))
    # 0.5 and 1.5 at every step, 2.5 at the two after the last one has come, 100 + … + 400 together
    assert ended == [Episode(b, 4 * 2.0 + 2 * 2.5 + 1000.0, 4) for b in (0, 1, 0, 1)]
    assert rollout.mask.shape == (9, 2, 3)


def crew(copies=2, **options):
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    return envs.make(CREW, copies, env_kwargs=options)


def crew_source(steps, *, copies=2, seed=0, policy=counting, **options):
    return PettingZooSource(
        crew(copies, **options), policy, num_steps=steps, stage=unlifted, seed=seed,
        remember=counting_from,
    )  # fmt: skip


def test_pettingzoo_source_records_what_the_adapter_says_of_each_agent():
    """The same environments are stepped beside it by what it executed, and each agent followed."""
    source, beside = crew_source(9, seed=3), crew()
    (obs,), present = beside.reset(seed=3)
    state, ages = source.init(random.key(1)), torch.zeros(6, 3)
    assert not source.exact and source.lanes == beside.num_groups == 6
    kinds = set()
    for _ in range(2):  # episodes go on across rollouts
        state, rollout, ended = source.collect(state, torch.tensor(0.0))
        expected = []
        for t in range(9):
            at = tree.take(rollout, t)
            there = torch.from_numpy(present)
            assert torch.equal(at.mask, there)
            assert torch.equal(at.obs[0][there], torch.from_numpy(obs)[there])
            assert torch.equal(at.memory, ages[..., None].expand(6, 3, 2))
            step = beside.step(at.executed)
            after = tree.map(torch.from_numpy, step._replace(episodes=()))
            expected += step.episodes
            assert torch.equal(at.next_obs[0][there], after.next_obs[0][there])
            assert torch.equal(at.rewards, after.reward)
            assert torch.equal(at.group.next_mask, after.next_present)
            assert torch.equal(at.group.rewards, torch.zeros(6, 3))
            assert torch.equal(at.group.ended, after.terminated[:, None].expand(6, 3))
            left = there & ~after.next_present
            assert torch.equal(at.terminated, left | (there & after.terminated[:, None]))
            assert torch.equal(at.truncated, there & after.truncated[:, None])
            kept = there & after.present & ~(after.terminated | after.truncated)[:, None]
            ages = torch.where(kept, ages + 1, 0.0)
            kinds |= {("left alone", bool((left & ~after.terminated[:, None]).any())),
                      ("cut", bool(at.truncated.any())),
                      ("came", bool((~there & after.next_present).any()))}  # fmt: skip
            (obs,), present = step.obs, step.present
        assert ended == expected and ended
    assert {kind for kind, seen in kinds if seen} == {"left alone", "cut", "came"}
    assert rollout.action_mask.all() and rollout.action_mask.shape == (9, 6, 3, 5)
    source.close()


def test_pettingzoo_source_begins_by_its_seed_and_draws_with_new_keys():
    def drawn(seed):
        source = crew_source(3, seed=seed)
        state, one, _ = source.collect(source.init(random.key(0)), torch.tensor(0.0))
        state, other, _ = source.collect(state, torch.tensor(0.0))
        return one, other

    (one, after), (again, _), (other, _) = drawn(3), drawn(3), drawn(4)
    assert_trees_equal(one, again)
    assert not torch.equal(one.obs[0][0, :3], other.obs[0][0, :3])
    assert not torch.equal(one.obs[0][0, :3], one.obs[0][0, 3:]), "copies alike"
    assert not torch.equal(one.action.discrete, after.action.discrete)


def test_what_an_environment_says_wrongly_is_told_in_a_line():
    zoo = pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    from tests.test_pettingzoo import Told, saying

    assert zoo
    nan = {"a_0": torch.full((4,), torch.nan).numpy(), "a_1": torch.zeros(4).numpy()}
    groups = PettingZooGroups([Told(said=[saying(obs=nan)])])
    source = PettingZooSource(
        groups, counting, num_steps=1, stage=unlifted, seed=0, remember=counting_from
    )
    with pytest.raises(RunError, match=r"`obs` of agent 'a_0' in environment 0 must be finite"):
        source.collect(source.init(random.key(0)), torch.tensor(0.0))
    told = Told()
    told.first = nan
    with pytest.raises(RunError, match=r"`obs` of agent 'a_0' in environment 0 must be finite"):
        PettingZooSource(PettingZooGroups([told]), counting, num_steps=1, stage=unlifted, seed=0)


def test_a_mistake_of_the_policy_is_not_blamed_on_the_environment():
    def mistaken(params, obs, memory, key):
        raise ValueError("policy")

    source = crew_source(1, policy=mistaken)
    with pytest.raises(ValueError, match=r"^policy$"):
        source.collect(source.init(random.key(0)), torch.tensor(0.0))


def test_closing_a_source_closes_its_environments():
    source = crew_source(1)
    source.close()
    assert [env.closed for env in source._envs._envs] == [True, True]


# --- what learns from it ----------------------------------------------------------------------


def source_of(made, learner, groups, steps):
    parts = {"num_steps": steps, "stage": unlifted, "remember": remembering(learner)}
    if made == "tensor":
        env = escape(agents=3, rows=1, columns=3, time_limit=5)
        return TensorGroupSource(env, learner.act, num_envs=groups, **parts)
    return PettingZooSource(crew(groups // 3), learner.act, seed=0, **parts)


@pytest.mark.parametrize("made", ["tensor", "pettingzoo"])
@pytest.mark.parametrize("length", [1, 4, 40])
def test_the_first_update_finds_the_policy_that_acted(made, length):
    """Every ratio is 1: whoever comes to an empty place remembers nothing, and so it was told."""
    groups, steps = 3, 12
    spec = escape().spec if made == "tensor" else crew(1).spec
    network = networks.group_actor_critic(spec, memory_size=4, hidden_units=8, num_layers=1)
    learner = poca(network, spec, learning_rate=1e-2)
    source = source_of(made, learner, groups, steps)
    one = iteration(
        learner, {"extrinsic": extrinsic()}, num_epochs=1, num_agents=(groups, 3),
        batch_size=length * groups * 3 * -(-steps // length), sequence_length=length,
    )  # fmt: skip
    state, place = one.init(random.key(1)), source.init(random.key(2))
    params, memory = state.learner.params, state.memory
    for _ in range(2):
        place, rollout, _ = source.collect(place, params)
        after, stats = one.update(state._replace(memory=memory), rollout)
        memory = after.memory
        assert stats["clip_fraction"] == 0.0
        torch.testing.assert_close(stats["approx_kl"], torch.tensor(0.0), rtol=0, atol=1e-9)
        assert rollout.memory.any() and not rollout.mask.all()
        assert int(after.learner.steps) == int(rollout.mask.sum()), "steps of agents"
    source.close()


def test_mates_of_a_collected_agent_are_those_beside_it():
    one = collecting(3, 6, groups=2, steps=8)
    _, (rollout, _) = one.collect(one.init(random.key(0)), torch.tensor(0.0))
    mates, following = mates_of(rollout)
    for i, others in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        assert torch.equal(mates.present[:, :, i], rollout.mask[:, :, others])
        assert torch.equal(following.present[:, :, i], rollout.group.next_mask[:, :, others])
    assert not rollout.mask.all() and rollout.mask.any()
