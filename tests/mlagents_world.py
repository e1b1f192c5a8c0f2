"""A world for ML-Agents' own trainer loop, written against its `BaseEnv`."""

import numpy as np
from mlagents_envs.base_env import (
    ActionSpec,
    BaseEnv,
    BehaviorSpec,
    DecisionSteps,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
    TerminalSteps,
)

NAME = "Walker"
STRIDE, COST, MOST_STEPS = 0.4, 0.05, 12


class World(BaseEnv):
    """Agents on a line, each of which is to go to the end that it is shown.

    An agent is paid +1 or −1 on arriving and pays a little for every step; after twelve it is
    cut. With `memory` the end is shown at the first step alone. With `groups` two agents are
    paid together, and whoever arrives is gone until the other one does. With `teams` every other
    pair is of a second team, as self-play knows them by their behaviour's name.
    """

    def __init__(self, continuous, memory, groups, masks, teams=False, agents=8, seed=0):
        self.names = [f"{NAME}?team={k}" for k in range(2)] if teams else [NAME]
        self.continuous, self.memory, self.groups, self.masks = continuous, memory, groups, masks
        self.agents, self.random = agents, np.random.default_rng(seed)
        seen = ObservationSpec((3,), (DimensionProperty.NONE,), ObservationType.DEFAULT, "line")
        action = ActionSpec.create_continuous(1) if continuous else ActionSpec.create_discrete((3,))
        self.spec = BehaviorSpec([seen], action)
        self.team = np.arange(agents) // 2 % len(self.names)
        self.reset()

    @property
    def behavior_specs(self):
        return dict.fromkeys(self.names, self.spec)

    def reset(self):
        n = self.agents
        self.place, self.goal, self.steps = np.zeros(n), np.zeros(n), np.zeros(n, int)
        self.alive = np.ones(n, bool)
        self.ids = np.arange(n)
        self.last_id = n - 1
        self._begin(np.arange(n))
        self._show(np.zeros(n), np.zeros(n), [])

    def _begin(self, which):
        self.place[which], self.steps[which], self.alive[which] = 0, 0, True
        self.goal[which] = self.random.choice([-1.0, 1.0], len(which))

    def _obs(self, which):
        shown = np.where((self.steps[which] == 0) | (not self.memory), self.goal[which], 0)
        one = np.ones(len(which))
        return [np.stack([self.place[which], shown, one], 1).astype(np.float32)]

    def _group(self, which):
        return (which // 2 + 1 if self.groups else np.zeros(len(which))).astype(np.int32)

    def _show(self, rewards, group_rewards, ended, obs=None, cut=None):
        """Say what there is to decide, and what has ended: `ended` are places of agents."""
        ended = np.asarray(ended, int)
        self.deciding, self.steps_of = {}, {}
        for team, name in enumerate(self.names):
            deciding = np.flatnonzero(self.alive & (self.team == team))
            fresh = np.isin(deciding, ended)
            masked = self.masks and not self.continuous
            masks = [np.zeros((len(deciding), 3), bool)] if masked else None
            decisions = DecisionSteps(
                self._obs(deciding),
                np.where(fresh, 0, rewards[deciding]).astype(np.float32),
                self.ids[deciding],
                masks,
                self._group(deciding),
                np.where(fresh, 0, group_rewards[deciding]).astype(np.float32),
            )
            terminals = TerminalSteps.empty(self.spec)
            own = self.team[ended] == team
            if own.any():
                over = ended[own]
                terminals = TerminalSteps(
                    [obs[0][own]], rewards[over].astype(np.float32), cut[own], self.ended_ids[own],
                    self._group(over), group_rewards[over].astype(np.float32),
                )  # fmt: skip
            self.deciding[name], self.steps_of[name] = deciding, (decisions, terminals)
        self.move = np.zeros(self.agents)

    def set_actions(self, behavior_name, action):
        move = action.continuous[:, 0] if self.continuous else action.discrete[:, 0] - 1.0
        self.move[self.deciding[behavior_name]] = np.clip(move, -1, 1) * STRIDE

    def set_action_for_agent(self, behavior_name, agent_id, action):
        raise NotImplementedError

    def step(self):
        n, acting = self.agents, np.flatnonzero(self.alive)
        self.place[acting] += self.move[acting]
        self.steps[acting] += 1
        arrived = np.zeros(n, bool)
        arrived[acting] = np.abs(self.place[acting]) >= 1
        paid = np.where(np.sign(self.place) == self.goal, 1.0, -1.0)
        rewards, group_rewards = np.zeros(n), np.zeros(n)
        if self.groups:
            pairs = np.arange(n) // 2
            earned = np.bincount(pairs, np.where(arrived, paid / 2, 0), n // 2)[pairs]
            group_rewards[acting] = earned[acting] - COST
        else:
            rewards[acting] = np.where(arrived, paid, 0)[acting] - COST
        cut = np.zeros(n, bool)
        cut[acting] = (self.steps[acting] >= MOST_STEPS) & ~arrived[acting]
        ended = np.flatnonzero(arrived | cut)
        obs, self.ended_ids = self._obs(ended), self.ids[ended]
        self.alive[ended] = False
        begin = ended
        if self.groups:
            over = ~self.alive.reshape(-1, 2).any(1)
            begin = np.flatnonzero(np.repeat(over, 2))
        was_cut = cut[ended]
        if len(begin):
            self._begin(begin)
            self.ids[begin] = self.last_id + 1 + np.arange(len(begin))
            self.last_id += len(begin)
        self._show(rewards, group_rewards, ended, obs, was_cut)

    def get_steps(self, behavior_name):
        return self.steps_of[behavior_name]

    def close(self):
        pass
