"""Rollouts of every kind, and what returns are by definition: plain sums over episodes."""

import inspect

import numpy as np
import torch
from hypothesis import strategies as st

from optinfra import returns
from optinfra.returns import discounted_returns, gae, lambda_returns, retrace, vtrace

BATCHES = ((), (3,), (2, 2))
FLOATS = ("rewards", "values", "action_values", "next_values", "log_ratio")
FLAGS = ("terminated", "truncated")


def rollout(seed, steps, batch=(), ends=0.25):
    """All tensor arguments that any estimator takes; float64, so that laws can be tight.

    Values and next values are independent: no formula may read the one for the other.
    """
    rng = np.random.default_rng(seed)
    shape = (steps, *batch)
    floats = {name: torch.from_numpy(np.asarray(rng.normal(size=shape))) for name in FLOATS}
    return floats | {name: torch.from_numpy(np.asarray(rng.random(shape) < ends)) for name in FLAGS}


def call(function, r, **rates):
    """Give the estimator those tensors that it takes."""
    taken = inspect.signature(function).parameters
    return function(**{name: x for name, x in r.items() if name in taken}, **rates)


RATES_OF = {
    gae: lambda rate: dict(discount=rate, gae_lambda=1 - rate / 2),
    lambda_returns: lambda rate: dict(discount=rate, trace_lambda=1 - rate / 2),
    discounted_returns: lambda rate: dict(discount=rate),
    vtrace: lambda rate: dict(discount=rate, clip_rho=2 * rate, clip_c=rate),
    retrace: lambda rate: dict(discount=rate, trace_lambda=1 - rate / 2),
}


def estimate(function, r, rate=0.9):
    """One tensor `[T, *B]`, of V-trace `[T, *B, 2]`, at rates made of one number."""
    out = call(function, r, **RATES_OF[function](rate))
    return torch.stack(out, -1) if function is vtrace else out


@st.composite
def rollouts(draw, batches=BATCHES, min_steps=1):
    """Up to three chunks of steps; both kinds of ends, from none to nearly every step."""
    steps = draw(st.integers(min_steps, 2 * returns.CHUNK + 3))
    ends = draw(st.sampled_from([0.0, 0.1, 0.5]))
    seed = draw(st.integers(0, 2**32 - 1))
    return rollout(seed, steps, draw(st.sampled_from(batches)), ends)


@st.composite
def cuts(draw):
    """A rollout and a step before which it is cut in two."""
    r = draw(rollouts(min_steps=2))
    return r, draw(st.integers(1, len(r["rewards"]) - 1))


def take(arguments, index):
    return {name: x[index] for name, x in arguments.items()}


def by_column(oracle):
    """Apply an oracle on lists of Python numbers, a dict per rollout, to every column."""

    def apply(arguments, *rates):
        shape = arguments["rewards"].shape
        flat = {name: x.reshape(len(x), -1).T.tolist() for name, x in arguments.items()}
        columns = range(len(flat["rewards"]))
        outs = [oracle({name: x[j] for name, x in flat.items()}, *rates) for j in columns]
        return torch.tensor(outs, dtype=torch.float64).T.reshape(shape)

    return apply


def last_step(r, t):
    """The last step of the rollout that belongs to the episode of step t."""
    steps = range(t, len(r["rewards"]))
    return next((k for k in steps if r["terminated"][k] or r["truncated"][k]), steps[-1])


def bootstrap(r, t):
    return 0.0 if r["terminated"][t] else r["next_values"][t]


@by_column
def gae_by_double_sum(r, discount, gae_lambda):
    out = []
    for t in range(len(r["rewards"])):
        terms = [
            (discount * gae_lambda) ** (k - t)
            * (r["rewards"][k] + discount * bootstrap(r, k) - r["values"][k])
            for k in range(t, last_step(r, t) + 1)
        ]
        out.append(sum(terms))
    return out


def n_step_return(r, t, k, discount):
    """Rewards of steps t to k and the value that follows."""
    rewards = sum(discount ** (i - t) * r["rewards"][i] for i in range(t, k + 1))
    return rewards + discount ** (k + 1 - t) * bootstrap(r, k)


@by_column
def lambda_returns_by_mixture(r, discount, trace_lambda):
    out = []
    for t in range(len(r["rewards"])):
        last = last_step(r, t)
        shorter = [
            (1 - trace_lambda) * trace_lambda ** (k - t) * n_step_return(r, t, k, discount)
            for k in range(t, last)
        ]
        longest = trace_lambda ** (last - t) * n_step_return(r, t, last, discount)
        out.append(sum(shorter) + longest)
    return out


@by_column
def discounted_returns_by_sum(r, discount):
    return [n_step_return(r, t, last_step(r, t), discount) for t in range(len(r["rewards"]))]


def off_policy_error(r, t, discount, delta, trace):
    """Σ γᵏ⁻ᵗ (Π trace between t and k) δₖ: `trace(i)` is paid to step from i to i + 1."""
    total, weight = 0.0, 1.0
    for k in range(t, last_step(r, t) + 1):
        total += weight * delta(k)
        weight *= discount * trace(k)
    return total


@by_column
def vtrace_targets_by_sum(r, discount, clip_rho, clip_c):
    ratio = np.exp(r["log_ratio"])

    def delta(k):
        error = r["rewards"][k] + discount * bootstrap(r, k) - r["values"][k]
        return min(clip_rho, ratio[k]) * error

    return [
        v + off_policy_error(r, t, discount, delta, lambda i: min(clip_c, ratio[i]))
        for t, v in enumerate(r["values"])
    ]


@by_column
def vtrace_advantages_by_targets(r, discount, clip_rho):
    """As in the paper, from the targets of the next step: `r` holds them as `targets`."""
    out = []
    for t, v in enumerate(r["values"]):
        inside = t < last_step(r, t)
        follows = r["targets"][t + 1] if inside else bootstrap(r, t)
        rho = min(clip_rho, np.exp(r["log_ratio"][t]))
        out.append(rho * (r["rewards"][t] + discount * follows - v))
    return out


@by_column
def retrace_by_sum(r, discount, trace_lambda):
    ratio = np.exp(r["log_ratio"])

    def delta(k):
        return r["rewards"][k] + discount * bootstrap(r, k) - r["action_values"][k]

    def trace(i):
        return trace_lambda * min(1.0, ratio[i + 1]) if i + 1 < len(ratio) else 0.0

    return [
        q + off_policy_error(r, t, discount, delta, trace) for t, q in enumerate(r["action_values"])
    ]


def consistent(r):
    """Let the value of what follows be the next step's value, where the episode goes on."""
    following = torch.cat([r["values"][1:], r["next_values"][-1:]])
    goes_on = ~(r["terminated"] | r["truncated"])
    return r | {"next_values": torch.where(goes_on, following, r["next_values"])}
