"""Any of Gymnasium's vector environments, seen as arrays with nothing hidden."""

from typing import Any, NamedTuple

import numpy as np

from optinfra.envs.observations import environment
from optinfra.envs.spaces import USUAL, Reading, decoder, encoder
from optinfra.types import Action, Spec

# The values of gymnasium.vector.AutoresetMode, which is not imported before it is needed.
NEXT_STEP, SAME_STEP, DISABLED = "NextStep", "SameStep", "Disabled"


class Episode(NamedTuple):
    """An episode that has just ended."""

    env: int  # index of its environment
    total_reward: float  # its undiscounted return
    length: int  # steps


class VectorStep(NamedTuple):
    """What one action in each of N environments leads to; every array is the caller's own.

    `next_obs` and `obs` may be the same arrays, and are where no episode ended.
    """

    obs: tuple[np.ndarray, ...]  # [N, *shape] float32 or uint8 each, to act on next
    next_obs: tuple[np.ndarray, ...]  # the same, what really followed
    reward: np.ndarray  # [N] float32
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    mask: np.ndarray  # [N] bool, False where the action was ignored and the step only reset
    episodes: tuple[Episode, ...]  # those that ended with this step


class GymnasiumVector:
    """A Gymnasium vector environment that says what really followed each action.

    Of Gymnasium's three ways to begin a new episode, all are understood: in the same step
    (the final observation comes in `info`), in the next step (which ignores its action:
    `mask`), and not at all (ended environments are reset here).
    """

    _totals: np.ndarray  # [N] return of each episode so far
    _lengths: np.ndarray  # [N] int64, its steps
    _waiting: np.ndarray  # [N] bool, the next step will only reset

    def __init__(self, envs: Any, reading: Reading = USUAL) -> None:
        """Take over a vector environment.

        Args:
          envs: a `gymnasium.vector.VectorEnv`; its spaces are those of `encoder`, `decoder`.
          reading: how observations are read; see `Reading`.

        Raises:
          TypeError: `envs` is no vector environment.
          ValueError: a space is not supported, `reading` does not fit it, or `envs` does not
            say how it resets.
        """
        from gymnasium.vector import VectorEnv

        if not isinstance(envs, VectorEnv):
            raise TypeError(
                f"`envs` must be a gymnasium.vector.VectorEnv, got {type(envs).__name__}. "
                "Put single environments into gymnasium.vector.SyncVectorEnv."
            )
        self.num_envs: int = envs.num_envs
        self._envs = envs
        self._mode = autoreset_mode(envs)
        self._encoder = encoder(envs.single_observation_space, reading)
        self._decoder = decoder(envs.single_action_space, envs.num_envs)
        self.spec: Spec = self._encoder.spec(self._decoder.spec)
        self._forget()

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, ...]:
        """Begin an episode in every environment.

        Args:
          seed: environments are seeded from it, each apart; without one they draw on.

        Returns:
          `[N, *shape]` float32 or uint8 each, the observations to act on.

        Raises:
          ValueError: an observation is not finite, or not of its space; the message names the
            environment.
        """
        self._forget()
        raw, _ = self._envs.reset(seed=seed)
        return self._encoder.encode(raw)

    def step(self, action: Action) -> VectorStep:
        """Act once in every environment.

        Args:
          action: as executed, continuous `[N, A]` in [−1, 1], discrete `[N, K]`; arrays or
            tensors on the CPU.

        Returns:
          A `VectorStep`.

        Raises:
          ValueError: an action has a wrong shape, an observation or reward is not finite.
        """
        raw, *told, info = self._envs.step(self._decoder.decode(action))
        reward = np.array(told[0], np.float32)
        terminated, truncated = np.array(told[1], bool), np.array(told[2], bool)
        mask = ~self._waiting
        if self._mode == NEXT_STEP:
            reward[self._waiting] = 0.0
            terminated, truncated = terminated & mask, truncated & mask
            self._waiting = terminated | truncated
        require_finite(reward)
        self._totals += reward
        self._lengths += mask
        obs = next_obs = self._encoder.encode(raw)
        ended = terminated | truncated
        episodes: tuple[Episode, ...] = ()
        if ended.any():
            obs, next_obs = self._restart(ended, obs, info)
            episodes = self._finish(ended)
        return VectorStep(obs, next_obs, reward, terminated, truncated, mask, episodes)

    def close(self) -> None:
        """Release what the environments hold."""
        self._envs.close()

    def _forget(self) -> None:
        """Let no episode be under way."""
        self._totals = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._waiting = np.zeros(self.num_envs, dtype=bool)

    def _restart(
        self, ended: np.ndarray, obs: tuple[np.ndarray, ...], info: dict[str, Any]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Tell what to act on next, and what followed, where some episodes ended."""
        if self._mode == NEXT_STEP:
            return obs, obs
        if self._mode == SAME_STEP:
            envs = np.flatnonzero(ended)
            final = self._encoder.encode_rows(
                final_observations(envs, info), lambda row: environment(envs[row])
            )
            return obs, replaced(obs, ended, final)
        raw, _ = self._envs.reset(options={"reset_mask": ended.copy()})
        first = tuple(x[ended] for x in self._encoder.encode(raw))
        return replaced(obs, ended, first), obs

    def _finish(self, ended: np.ndarray) -> tuple[Episode, ...]:
        """Report the ended episodes and let their environments begin to count anew."""
        episodes = tuple(
            Episode(int(i), float(self._totals[i]), int(self._lengths[i]))
            for i in np.flatnonzero(ended)
        )
        self._totals[ended] = 0.0
        self._lengths[ended] = 0
        return episodes


def autoreset_mode(envs: Any) -> str:
    """Tell how ended environments are reset: `NextStep`, `SameStep` or `Disabled`.

    Raises:
      ValueError: the environment does not say.
    """
    # Before Gymnasium 1.4 the metadata of two vector environments over one class were the
    # same dict, and the younger one's mode overwrote the older one's: ask the attribute
    # first. https://github.com/Farama-Foundation/Gymnasium/pull/1623; goes with floor 1.4.
    mode = getattr(envs.unwrapped, "autoreset_mode", envs.metadata.get("autoreset_mode"))
    mode = getattr(mode, "value", mode)
    if mode not in (NEXT_STEP, SAME_STEP, DISABLED):
        raise ValueError(
            f'`envs.metadata["autoreset_mode"]` must be one of gymnasium.vector.AutoresetMode, '
            f"got {mode}."
        )
    return mode


def final_observations(envs: np.ndarray, info: dict[str, Any]) -> list[Any]:
    """Take from `info` what the environments saw last whose episodes ended."""
    if "final_obs" not in info:
        raise ValueError(f"`info` must hold `final_obs` where an episode ends, got {sorted(info)}.")
    return [info["final_obs"][env] for env in envs]


def replaced(
    obs: tuple[np.ndarray, ...], rows: np.ndarray, by: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """Copy observations `[N, …]`, with others in some rows."""
    copies = tuple(x.copy() for x in obs)
    for x, other in zip(copies, by):
        x[rows] = other
    return copies


def require_finite(reward: np.ndarray) -> None:
    """Raise ValueError unless every reward is finite; the message names the environment."""
    finite = np.isfinite(reward)
    if not finite.all():
        env = int(np.argmin(finite))
        raise ValueError(f"`reward` of environment {env} must be finite, got {reward[env]}.")
