"""The adapter tells, of any PettingZoo environment, who acts in which group and what followed."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import example, given
from hypothesis import strategies as st

from optinfra.envs import Episode, PettingZooGroups, Reading, make
from optinfra.envs.pettingzoo import group_by_name
from optinfra.types import Action, ActionSpec, Spec

pettingzoo = pytest.importorskip("pettingzoo", reason="needs pettingzoo")

CREW = ("red_0", "red_1", "red_2", "blue_0", "blue_1", "cook")
LATE, JOINS = "blue_1", 2  # who appears after how many steps
LIMIT = 5
STAY, DIE, STOP, BOTH, VANISH = range(5)
BOX = spaces.Box(-100, 100, (4,), np.float32)
FIVE = spaces.Discrete(5)


class Crew(pettingzoo.ParallelEnv):
    """Shows (episode, step, agent, what was drawn); agents leave as they choose, one comes late.

    All are cut after LIMIT steps. Who is not there must neither act nor be told of.
    """

    def __init__(self, forgets=False):
        self.possible_agents = list(CREW)
        self.episode, self.forgets, self.closed, self.got = 0, forgets, False, []
        self.buffers = {agent: np.zeros(4, np.float32) for agent in CREW}  # for ever the same
        self.rng = np.random.default_rng()

    def observation_space(self, agent):
        return BOX

    def action_space(self, agent):
        return FIVE

    def see(self, agents):
        for agent in agents:
            self.buffers[agent][:] = self.episode, self.t, CREW.index(agent), self.drawn
        return {agent: self.buffers[agent] for agent in agents}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.episode, self.t, self.drawn = self.episode + 1, 0, self.rng.uniform()
        self.agents, self.left = [agent for agent in CREW if agent != LATE], set()
        return self.see(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        acting = [agent for agent in self.agents if agent not in self.left]
        assert set(actions) == set(acting) and acting, "others act than are there"
        self.got.append(actions)
        self.t += 1
        over = self.t == LIMIT
        terminated = {agent: bool(a in (DIE, BOTH)) for agent, a in actions.items()}
        truncated = {agent: bool(a in (STOP, BOTH)) or over for agent, a in actions.items()}
        leaving = {a for a in acting if terminated[a] or truncated[a] or actions[a] == VANISH}
        self.left |= leaving
        if not self.forgets:
            self.agents = [agent for agent in self.agents if agent not in leaving]
        shown = list(acting)
        if self.t == JOINS and set(acting) - leaving:
            self.agents.append(LATE)
            shown.append(LATE)
        reward = {agent: 10.0 * CREW.index(agent) + self.t for agent in acting}
        return self.see(shown), reward, terminated, truncated, {agent: {} for agent in shown}

    def close(self):
        self.closed = True


class Told(Crew):
    """Alone with a mate, says what it is told to say."""

    def __init__(self, seen=BOX, done=FIVE, said=()):
        self.possible_agents = ["a_0", "a_1"]
        self.seens, self.dones = (
            [x] * 2 if isinstance(x, spaces.Space) else x for x in (seen, done)
        )
        self.first = {agent: np.zeros(4) for agent in self.possible_agents}
        self.said, self.got = list(said), []

    def observation_space(self, agent):
        return self.seens[int(agent[-1])]

    def action_space(self, agent):
        return self.dones[int(agent[-1])]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.first, {}

    def step(self, actions):
        self.got.append(actions)
        return *self.said.pop(0), {}


def saying(**wrong):
    """A step's words, some of them wrong: `said(obs={...})`."""
    right = {"obs": np.zeros(4), "reward": 0.0, "terminated": False, "truncated": False}
    words = {name: {"a_0": x, "a_1": x} for name, x in right.items()}
    return tuple({**words, **wrong}.values())


def parallel_env(**options):
    """What `pettingzoo:tests.test_pettingzoo` makes."""
    return Crew(**options)


def act(envs, **choices):
    """An action of every agent of every copy: STAY, but for those that are named."""
    discrete = np.zeros((envs.num_groups, envs.agents, 1), np.int64)
    copies = len(envs._envs)
    for agent, chosen in choices.items():
        group, slot = envs._slots[agent]
        for i, choice in enumerate(np.broadcast_to(chosen, copies)):
            discrete[i * len(envs.groups) + group, slot] = choice
    return Action(np.zeros((*discrete.shape[:2], 0), np.float32), discrete)


def begun(*options, seed=0):
    envs = PettingZooGroups([Crew(**each) for each in options or ({},)])
    envs.reset(seed)
    return envs


# Rows and slots


def test_groups_are_rows_and_agents_slots():
    envs = PettingZooGroups([Crew(), Crew()])
    assert envs.groups == ("red", "blue", "cook")
    assert (envs.num_groups, envs.agents) == (6, 3)
    assert envs.spec == Spec(obs=((4,),), action=ActionSpec(branches=(5,)))
    (obs,), present = envs.reset(seed=0)
    there = [[True, True, True], [True, False, False], [True, False, False]]
    assert present.tolist() == there * 2 and present.dtype == bool
    assert obs.shape == (6, 3, 4) and obs.dtype == np.float32
    assert obs[present][:, 2].tolist() == [0, 1, 2, 3, 5] * 2 and not obs[~present].any()
    assert len(set(obs[:3][present[:3]][:, 3])) == 1 and obs[0, 0, 3] != obs[3, 0, 3]


@pytest.mark.parametrize(
    ("agent", "group"),
    [("agent_0", "agent"), ("red_team_12", "red_team"), ("cook", "cook"), ("leg_0_3", "leg_0"),
     ("left_", "left_"), ("_7", ""), ("x_1a", "x_1a"), ("two\nlines_3", "two\nlines"), (4, "4")],
)  # fmt: skip
def test_a_group_is_what_stands_before_the_last_number(agent, group):
    assert group_by_name(agent) == group


def test_groups_may_come_from_a_function():
    envs = PettingZooGroups([Crew()], group_of=lambda agent: "even" if agent[-1] in "02" else "odd")
    assert envs.groups == ("even", "odd") and envs.agents == 3
    (obs,), present = envs.reset()
    assert obs[..., 2].tolist() == [[0, 2, 3], [1, 0, 5]]  # the late one's slot is empty
    assert present.tolist() == [[True] * 3, [True, False, True]]


# What follows an action


def test_who_dies_is_shown_what_it_sees_last_and_its_group_goes_on():
    envs = begun()
    step = envs.step(act(envs, red_1=DIE))
    assert step.next_obs[0][0, :, :3].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 2]]
    assert step.next_present[0].tolist() == step.present[0].tolist() == [True, False, True]
    assert step.reward[0].tolist() == [1, 11, 21] and not step.terminated.any()
    later = envs.step(act(envs))
    assert later.reward[0].tolist() == [2, 0, 22] and not later.next_obs[0][0, 1].any()
    assert envs._envs[0].got[1].keys() == {"red_0", "red_2", "blue_0", "cook"}
    assert not step.group_reward.any() and step.group_reward.shape == (3,)


def test_who_appears_is_shown_what_it_sees_first_and_earns_nothing_yet():
    envs = begun()
    before, step, after = (envs.step(act(envs)) for _ in range(3))
    assert [x.next_present[1].tolist()[:2] for x in (before, step, after)] == [
        [True, False], [True, True], [True, True]]  # fmt: skip
    assert step.obs[0][1, 1, :3].tolist() == [1, 2, 4] and not before.obs[0][1, 1].any()
    assert (step.reward[1, 1], after.reward[1, 1]) == (0, 43)


def test_a_group_that_ends_before_the_others_has_an_empty_row_until_they_end():
    envs = begun()
    envs.step(act(envs))
    end = envs.step(act(envs, cook=DIE))
    assert end.terminated.tolist() == [False, False, True] and not end.truncated.any()
    assert end.next_obs[0][2, 0, :3].tolist() == [1, 2, 5]
    assert not end.present[2].any() and not end.next_present[2].any()
    assert end.episodes == (Episode(env=2, total_reward=51 + 52, length=2),)
    idle = envs.step(act(envs, cook=DIE))
    assert not idle.terminated.any() and not idle.truncated.any() and idle.episodes == ()
    assert not idle.reward[2].any() and not idle.next_obs[0][2].any()
    envs.step(act(envs))
    last = envs.step(act(envs))
    assert last.truncated.tolist() == [True, True, False] and not last.terminated.any()
    assert [episode.env for episode in last.episodes] == [0, 1]
    assert last.present[2].tolist() == [True, False, False]
    assert last.obs[0][2, 0, :3].tolist() == [2, 0, 5] and not last.next_obs[0][2].any()


def test_who_is_cut_with_its_group_is_still_there_and_the_dead_are_not():
    envs = begun()
    for _ in range(LIMIT - 1):
        envs.step(act(envs))
    step = envs.step(act(envs, red_0=DIE, cook=DIE))
    assert step.next_present.tolist() == [[False, True, True], [True, True, False], [False] * 3]
    assert step.truncated.tolist() == [True, True, True]
    assert step.terminated.tolist() == [False, False, True], "a cut group did not end by itself"
    assert (step.next_obs[0][0, :, 0] == 1).all() and (step.obs[0][0, :, 0] == 2).all()
    assert step.episodes[0] == Episode(0, sum(3 * t + 30 for t in range(1, LIMIT + 1)), LIMIT)


@pytest.mark.parametrize(
    ("choice", "terminated", "truncated", "there"),
    [(DIE, True, False, False), (STOP, False, True, True), (BOTH, True, True, False),
     (VANISH, False, True, True)],
)  # fmt: skip
def test_an_end_is_what_its_last_agent_was_told(choice, terminated, truncated, there):
    envs = begun()
    step = envs.step(act(envs, cook=choice))
    assert (step.terminated[2], step.truncated[2]) == (terminated, truncated)
    assert step.next_present[2].tolist() == [there, False, False] and not step.present[2].any()


def test_how_the_first_left_does_not_tell_how_a_group_ends():
    envs = begun()
    step = envs.step(act(envs, red_0=STOP, red_1=STOP))
    assert step.next_present[0].tolist() == [False, False, True]
    step = envs.step(act(envs, red_2=DIE))
    assert step.terminated[0] and not step.truncated[0] and not step.next_present[0].any()


def test_a_group_that_is_joined_after_its_end_begins_again():
    envs = begun()
    end = envs.step(act(envs, blue_0=DIE))
    join = envs.step(act(envs))
    assert end.terminated[1] and not join.terminated[1] and not join.reward[1].any()
    assert join.present[1].tolist() == [False, True, False]
    again = envs.step(act(envs, blue_1=DIE))
    assert again.terminated[1] and again.episodes == (Episode(1, 43.0, 1),)


def test_an_environment_begins_anew_when_everybody_has_left_and_no_other_does():
    envs = begun({}, {})
    everybody = {agent: [DIE, STAY] for agent in CREW}
    step = envs.step(act(envs, **everybody))
    assert step.terminated.tolist() == [True] * 3 + [False] * 3
    assert step.obs[0][:, 0, :2].tolist() == [[2, 0]] * 3 + [[1, 1]] * 3
    assert step.next_obs[0][:, 0, :2].tolist() == [[1, 1]] * 6
    assert step.present[:, 0].all() and not step.next_present[:3].any()
    assert [episode.env for episode in step.episodes] == [0, 1, 2]
    assert envs.step(act(envs)).reward[:, 0].tolist() == [1, 31, 51, 2, 32, 52]


def test_who_was_told_its_end_stays_away_though_the_environment_still_lists_it():
    envs = begun({"forgets": True})
    envs.step(act(envs, red_1=DIE))
    assert envs.step(act(envs)).present[0].tolist() == [True, False, True]
    step = envs.step(act(envs, **dict.fromkeys(CREW, DIE)))
    assert step.terminated.tolist() == [True] * 3 and step.present[0].all()
    assert step.obs[0][0, :, 0].tolist() == [2, 2, 2]
    assert envs.step(act(envs)).present[0].all()


def group_by_hand(said, members, acting, now):
    """What is to be told of one group, from sets of names."""
    obs, reward, terminated, truncated, _ = said
    acted, here = [a for a in members if a in acting], [a for a in members if a in now]
    leavers = [a for a in acted if a not in here]
    ended = bool(acted) and not here
    own_end = ended and all(terminated[a] for a in leavers)
    cut = ended and (any(truncated[a] for a in leavers) or not own_end)
    still = here + [a for a in leavers if ended and not terminated[a]]
    shown = {a: obs[a].copy() for a in acted + [a for a in here if a not in acted]}
    return shown, {a: reward[a] for a in acted}, still, own_end, cut


CHOICES = st.lists(
    st.lists(st.sampled_from([STAY] * 8 + [DIE, STOP, BOTH, VANISH]), min_size=12, max_size=12),
    min_size=1, max_size=9,
)  # fmt: skip


@given(CHOICES, st.integers(0, 99))
@example([[DIE] * 12] * 3, 0)
@example([[STAY] * 12] * 9, 1)
def test_copies_side_by_side_tell_what_stepping_each_by_hand_does(script, seed):
    groups = {"red": CREW[:3], "blue": CREW[3:5], "cook": CREW[5:]}
    envs, alone = begun({}, {}, seed=seed), [Crew(), Crew()]
    for i, env in enumerate(alone):
        env.reset(seed=seed + i)
    for choices in script:
        halves = choices[:6], choices[6:]
        chosen = {agent: [half[k] for half in halves] for k, agent in enumerate(CREW)}
        step = envs.step(act(envs, **chosen))
        for i, env in enumerate(alone):
            acting = list(env.agents)
            said = env.step({agent: chosen[agent][i] for agent in acting})
            told = [group_by_hand(said, each, acting, env.agents) for each in groups.values()]
            first = env.reset()[0] if not env.agents else None
            for g, (members, expected) in enumerate(zip(groups.values(), told)):
                assert_row_tells(step, 3 * i + g, members, expected, first, env.agents)


def assert_row_tells(step, row, members, expected, first, now):
    shown, reward, still, own_end, cut = expected
    assert (bool(step.terminated[row]), bool(step.truncated[row])) == (own_end, cut)
    for slot, agent in enumerate(members):
        at = row, slot
        assert step.reward[at] == reward.get(agent, 0.0)
        assert step.next_present[at] == (agent in still) and step.present[at] == (agent in now)
        np.testing.assert_array_equal(step.next_obs[0][at], shown.get(agent, np.zeros(4)))
        following = shown if first is None else first
        np.testing.assert_array_equal(step.obs[0][at], following.get(agent, np.zeros(4)))
    empty = slice(len(members), None)
    assert not step.present[row, empty].any() and not step.next_present[row, empty].any()


def test_nothing_that_an_absent_agent_holds_reaches_the_environment():
    space = spaces.Box(-3, 3, (2,), np.float32)
    one = saying(terminated={"a_0": True, "a_1": False})
    env = Told(BOX, space, [one, one])
    envs = PettingZooGroups([env])
    envs.reset()
    action = Action(np.full((1, 2, 2), 0.5, np.float32), np.zeros((1, 2, 0), np.int64))
    envs.step(action)
    action.continuous[0, 0] = np.nan
    env.agents.remove("a_0")
    envs.step(action)
    assert [sorted(got) for got in env.got] == [["a_0", "a_1"], ["a_1"]]
    assert env.got[1]["a_1"].tolist() == [1.5, 1.5]


def test_actions_may_be_tensors_and_keep_the_start_of_their_space():
    space = spaces.MultiDiscrete([2, 3], start=[1, -1])
    env = Told(BOX, space, [saying()])
    envs = PettingZooGroups([env])
    assert envs.spec.action == ActionSpec(branches=(2, 3))
    envs.reset()
    envs.step(Action(torch.zeros(1, 2, 0), torch.tensor([[[0, 0], [1, 2]]])))
    assert {a: x.tolist() for a, x in env.got[0].items()} == {"a_0": [1, -1], "a_1": [2, 1]}
    assert all(space.contains(x) for x in env.got[0].values())


def test_what_was_returned_never_changes_afterwards():
    envs = PettingZooGroups([Crew(), Crew()])
    kept = [envs.reset(seed=0)]
    for t in range(7):
        step = envs.step(act(envs, red_0=[DIE, STAY] if t == 1 else STAY))
        kept.append(tuple(step[:-1]))
    copies = [[np.copy(x) for x in arrays] for arrays in kept]
    for _ in range(6):
        envs.step(act(envs, red_2=DIE))
    envs.reset()
    for arrays, then in zip(kept, copies):
        assert all((np.asarray(x) == y).all() for x, y in zip(arrays, then))


def test_what_was_returned_may_be_written_into():
    envs, other = begun(), begun()
    envs.reset(0)[1][:], _ = False, other.reset(0)
    for _ in range(4):
        steps = [each.step(act(each, red_1=DIE)) for each in (envs, other)]
        for x, y in zip((*steps[0][0], *steps[0][1:2]), (*steps[1][0], *steps[1][1:2])):
            np.testing.assert_array_equal(x, y)
        steps[0].present[:], steps[0].reward[:], steps[0].obs[0][:] = False, 7.0, 7.0


def test_reset_seeds_each_copy_apart_and_forgets_what_was_under_way():
    envs = PettingZooGroups([Crew(), Crew()])
    first = envs.reset(seed=3)[0][0]
    envs.step(act(envs, red_0=DIE))
    second, present = envs.reset(seed=3)
    assert (first[..., 3] == second[0][..., 3]).all() and first[0, 0, 3] != first[3, 0, 3]
    assert first[3, 0, 3] == PettingZooGroups([Crew()]).reset(seed=4)[0][0][0, 0, 3]
    assert present[0].all() and envs.reset()[0][0][0, 0, 3] != first[0, 0, 3]
    end = envs.step(act(envs, cook=DIE))
    assert end.episodes == (Episode(2, 51.0, 1), Episode(5, 51.0, 1))


def test_close_closes_every_copy():
    envs = PettingZooGroups([Crew(), Crew()])
    envs.close()
    assert all(env.closed for env in envs._envs)


# Refusals


def test_what_is_no_parallel_environment_is_refused():
    with pytest.raises(
        TypeError, match=r"must be a pettingzoo\.ParallelEnv each, got object\. Put"
    ):
        PettingZooGroups([Crew(), object()])
    with pytest.raises(ValueError, match=r"`envs` must hold at least one environment, got none"):
        PettingZooGroups([])


def test_environments_that_differ_or_name_nobody_are_refused():
    with pytest.raises(
        ValueError, match=r"copies of one environment, got possible agents \['red_0"
    ):
        PettingZooGroups([Crew(), Told()])
    nobody = Crew()
    nobody.possible_agents = []
    with pytest.raises(ValueError, match="must name their `possible_agents`, got none of Crew"):
        PettingZooGroups([nobody])


OTHER = spaces.Box(-1, 1, (5,), np.float32)


@pytest.mark.parametrize(
    ("seen", "done", "message"),
    [(spaces.Text(3), FIVE, r"`observation_space` must be Box, Discrete or M.* got Text\(.*Wrap"),
     ((BOX, FIVE), FIVE, r"`observation_space` must be one for all.* and Discrete\(5\) for 'a_1'"),
     ((BOX, OTHER), FIVE, r"`observation_space` must be one for all.*'a_0' and Box.*for 'a_1'"),
     (BOX, (FIVE, spaces.Discrete(4)), r"`action_space` must be one for .*Discrete\(4\) for 'a_1"),
     (BOX, spaces.Tuple((FIVE, BOX)), r"`action_space` must be a float Box.* got Tuple\("),
     (BOX, spaces.Box(-np.inf, 1, (2,)), "must have finite bounds in every dimension")],
)  # fmt: skip
def test_a_space_that_is_not_supported_is_named(seen, done, message):
    with pytest.raises(ValueError, match=message):
        PettingZooGroups([Told(seen, done)])


PICTURE = spaces.Box(0, 255, (2, 3, 1), np.uint8)
SIGHTS = spaces.Dict({"about": BOX, "others": spaces.Sequence(spaces.Discrete(6)), "view": PICTURE})


class Sighted(Crew):
    """Shows besides who else is there, and a picture, in one buffer for all and for ever."""

    picture = np.zeros((2, 3, 1), np.uint8)

    def observation_space(self, agent):
        return SIGHTS

    def see(self, agents):
        about = super().see(agents)
        return {
            agent: {
                "about": about[agent],
                "others": tuple(CREW.index(a) for a in self.agents if a != agent),
                "view": self.picture + np.uint8(40 * self.t + CREW.index(agent)),
            }
            for agent in agents
        }


def test_agents_may_see_dicts_with_images_and_sets():
    envs = PettingZooGroups([Sighted(), Sighted()], reading=Reading(5, ("view",)))
    assert envs.spec.obs == ((4,), (5, 7), (1, 2, 3))
    assert (envs.spec.goals, envs.spec.bytes) == ((2,), (2,))
    obs, present = envs.reset(seed=0)
    assert [x.dtype for x in obs] == [np.float32, np.float32, np.uint8]
    assert [x.shape for x in obs] == [(6, 3, 4), (6, 3, 5, 7), (6, 3, 1, 2, 3)]
    for x in obs[:2]:
        assert not x[~present].any()
    assert obs[2][:, 0, 0, 0, 0].tolist() == [0, 3, 5] * 2
    others = obs[1][0, 1]
    assert others[:, :6].argmax(-1)[:4].tolist() == [0, 2, 3, 5]
    assert others[:, 6].tolist() == [1, 1, 1, 1, 0] and not others[4].any()
    step = envs.step(act(envs, red_1=DIE, red_0=[STOP, STAY]))
    assert step.next_obs[2][0, :, 0, 0, 0].tolist() == [40, 41, 42]
    assert step.next_obs[1][3, 0, :, 6].sum() == 3 and step.next_obs[2].dtype == np.uint8
    for _ in range(LIMIT - 1):
        step = envs.step(act(envs))
    assert step.next_obs[2][2, 0].tolist() == [[[205] * 3] * 2]
    assert step.obs[2][2, 0].tolist() == [[[5] * 3] * 2] and step.obs[0][2, 0, 0] == 2
    assert step.obs[1][2, 0, :, 6].sum() == 4 and step.obs[2].dtype == np.uint8


def test_a_part_that_is_not_of_its_space_is_named_with_the_agent():
    class Blind(Sighted):
        def see(self, agents):
            seen = super().see(agents)
            seen["blue_0"] = {**seen["blue_0"], **self.wrong}
            return seen

    for wrong, told in (
        (
            {"others": (6,)},
            r"`obs\.others` of entity 0 of agent 'blue_0' in environment 1 must lie",
        ),
        ({"others": (1,) * 6}, r"`obs\.others` of agent 'blue_0' in environment 1 must have at mo"),
        (
            {"view": np.zeros((3, 2, 1))},
            r"'blue_0' in environment 1 must have shape \[2, 3, 1\], g",
        ),
        ({"about": NAN}, r"`obs\.about` of agent 'blue_0' in environment 1 must be finite, got na"),
    ):
        Blind.wrong = wrong
        with pytest.raises(ValueError, match=told):
            PettingZooGroups([Sighted(), Blind()], reading=Reading(5)).reset()


def test_spaces_that_are_read_differently_are_refused():
    gold = spaces.Dict(a=FIVE), spaces.Dict(a=spaces.Discrete(5, start=1))
    with pytest.raises(ValueError, match=r"must be one for all agents, got .* 'a_0' and .* 'a_1'"):
        PettingZooGroups([Told(gold)])
    with pytest.raises(ValueError, match="`goals` must name observations, got 'views'"):
        PettingZooGroups([Sighted()], reading=Reading(goals=("views",)))


def test_bounds_of_what_is_seen_may_differ():
    seen = spaces.Box(-9, 9, (4,), np.float32), BOX
    assert PettingZooGroups([Told(seen)]).spec.obs == ((4,),)


NAN = np.array([0, 0, np.nan, 0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"obs": {"a_0": np.zeros(4)}}, r"`obs` of environment 1 must tell of agent 'a_1', got \['a_"),
     ({"reward": {"a_1": 0.0}}, r"`reward` of environment 1 must tell of agent 'a_0', got \['a_1"),
     ({"terminated": {}}, r"`terminated` of environment 1 must tell of agent 'a_0', got \[\]"),
     ({"truncated": {}}, r"`truncated` of environment 1 must tell of agent 'a_0', got \[\]"),
     ({"obs": {"a_0": np.zeros(4), "a_1": NAN}},
      r"`obs` of agent 'a_1' in environment 1 must be finite, got nan at position 2\."),
     ({"obs": {"a_0": np.zeros(4), "a_1": np.zeros(3)}},
      r"`obs` of agent 'a_1' in environment 1 must have shape \[4\], got \[3\]"),
     ({"reward": {"a_0": 0.0, "a_1": np.inf}},
      r"`reward` of agent 'a_1' in environment 1 must be finite, got inf\.")],
)  # fmt: skip
def test_what_an_environment_must_not_say_is_named_with_the_agent(wrong, message):
    envs = PettingZooGroups([Told(said=[saying()]), Told(said=[saying(**wrong)])])
    envs.reset()
    with pytest.raises(ValueError, match=message):
        envs.step(act(envs))


def test_a_first_observation_that_is_not_finite_is_named():
    env = Told(said=[saying(terminated={"a_0": True, "a_1": True})])
    env.first = {"a_0": NAN, "a_1": NAN}
    with pytest.raises(ValueError, match="`obs` of agent 'a_0' in environment 0 must be finite"):
        PettingZooGroups([env]).reset()
    env.first = {"a_0": np.zeros(4), "a_1": np.zeros(4)}
    envs = PettingZooGroups([env])
    envs.reset()
    env.first = {"a_0": np.zeros(4), "a_1": NAN}
    with pytest.raises(ValueError, match="`obs` of agent 'a_1' in environment 0 must be finite"):
        envs.step(act(envs))


def test_an_agent_without_a_slot_and_a_start_without_agents_are_refused():
    class Open(Told):
        def reset(self, seed=None, options=None):
            self.agents = self.others
            return self.first, {}

    env = Open()
    for env.others, message in ((["b_7"], "be .* agents, got 'b_7'"), ([], "not be empty")):
        with pytest.raises(ValueError, match=f"`agents` of environment 0 must {message}"):
            PettingZooGroups([env]).reset()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 3, 2), r"`action\.discrete` must have shape \[3, 3, 1\], got \[3, 3, 2\]"),
     ((9, 1), r"`action\.discrete` must have shape \[3, 3, 1\], got \[9, 1\]")],
)  # fmt: skip
def test_an_action_of_the_wrong_shape_is_refused(shape, message):
    envs = begun()
    with pytest.raises(ValueError, match=message):
        envs.step(Action(np.zeros((3, 3, 0)), np.zeros(shape, np.int64)))
    with pytest.raises(ValueError, match=r"`action\.continuous` must have shape \[3, 3, 0\], got"):
        envs.step(act(envs)._replace(continuous=np.zeros((3, 3, 1))))


# Names

HERE = "pettingzoo:tests.test_pettingzoo"


def test_the_path_of_a_module_leads_to_what_its_parallel_env_makes():
    envs = make(HERE, 2, env_kwargs={"forgets": True})
    assert isinstance(envs, PettingZooGroups) and envs.num_groups == 6
    assert [env.forgets for env in envs._envs] == [True, True]
    assert envs._envs[0] is not envs._envs[1]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("pettingzoo:tests.test_petingzoo", ValueError, rf"Did you mean {HERE}"),
     ("pettingzoo:tests.runs", ValueError, "a module that has a `parallel_env`, got 'pet"),
     ("pettingzoo:", ValueError, r"is called `pettingzoo:package\.module`"),
     ("pettingzoo:.relative", ValueError, r"is called `pettingzoo:package\.module`"),
     ("pettingzoo:json.tol.qqq", ValueError, r"Did you mean pettingzoo:json\.tool"),
     ("pettingzoo:no_such.env_v0", ModuleNotFoundError, "needs the package `no_such`.*no_such$")],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_refused_with_a_way_out(name, error, message):
    with pytest.raises(error, match=message) as caught:
        make(name, 1)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_module_itself_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "env_v0.py").write_text("import no_such_engine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"`no_such_engine`.* install no_such_engine$"):
        make("pettingzoo:lacking.env_v0", 1)


def test_what_is_found_by_name_is_read_as_told():
    assert make(HERE, 1, reading=Reading(goals=("obs",))).spec.goals == (0,)


def test_no_copy_is_refused():
    with pytest.raises(ValueError, match=r"`num_envs` must lie in \[1, inf\), got 0"):
        make(HERE, 0)


def test_simple_spread_is_told_as_stepping_it_by_hand_tells_it():
    mpe = pytest.importorskip("mpe2.simple_spread_v3", reason="needs mpe2")
    envs, alone = make("pettingzoo:mpe2.simple_spread_v3", 2), mpe.parallel_env()
    assert envs.spec == Spec(obs=((18,),), action=ActionSpec(branches=(5,)))
    assert (envs.groups, envs.num_groups, envs.agents) == (("agent",), 2, 3)
    (obs,), present = envs.reset(seed=6)
    first, _ = alone.reset(seed=7)
    rng = np.random.default_rng(0)
    for t in range(60):
        np.testing.assert_array_equal(obs[1], np.stack(list(first.values())))
        choices = rng.integers(0, 5, (2, 3, 1))
        step = envs.step(Action(np.zeros((2, 3, 0), np.float32), choices))
        said = alone.step({f"agent_{k}": choices[1, k, 0] for k in range(3)})
        np.testing.assert_array_equal(step.next_obs[0][1], np.stack(list(said[0].values())))
        np.testing.assert_allclose(step.reward[1], list(said[1].values()), rtol=1e-6)
        ended = t % 25 == 24
        assert present.all() and step.next_present.all() and not step.terminated.any()
        assert step.truncated.tolist() == [ended] * 2 and len(step.episodes) == 2 * ended
        first = alone.reset()[0] if ended else said[0]
        (obs,), present = step.obs, step.present
    envs.close()
