"""Cases of `optinfra.transforms`: every factory, three members of a sweep."""

import torch

from optinfra import schedules
from optinfra import transforms as t
from tests.contracts import Case

MASK = {"body": {"bias": False, "weight": True}, "head": True}
TRANSFORMS = {  # by name: member k of a sweep
    "chain": lambda k: t.chain(t.scale(0.5 + k), t.trace(0.3 * k), t.clip_by_value(0.1 + k)),
    "scale": lambda k: t.scale(1.5 - k),
    "scale_by_schedule": lambda k: t.scale_by_schedule(schedules.linear(1.0 + k, 0.0, 7 + k)),
    "scale_by_learning_rate": lambda k: t.scale_by_learning_rate(0.1 + k),
    "trace": lambda k: t.trace(0.3 * k),
    "trace nesterov": lambda k: t.trace(0.9 - 0.3 * k, nesterov=True),
    "sgd": lambda k: t.sgd(0.1 + k, 0.3 * k),
    "scale_by_adam": lambda k: t.scale_by_adam(0.9 - 0.4 * k, 0.999 - 0.2 * k, 1e-8 + 0.1 * k),
    "adam": lambda k: t.adam(0.1 + k, 0.9 - 0.4 * k, 0.999 - 0.2 * k, 1e-8 + 0.1 * k),
    "adamw": lambda k: t.adamw(0.1 + k, 0.9 - 0.4 * k, weight_decay=0.1 * k),
    "scale_by_rms": lambda k: t.scale_by_rms(0.99 - 0.3 * k, 1e-8 + 0.1 * k),
    "scale_by_stddev": lambda k: t.scale_by_stddev(0.99 - 0.3 * k, 1e-8 + 0.1 * k),
    "rmsprop": lambda k: t.rmsprop(0.1 + k, 0.99 - 0.3 * k, momentum=0.3 * k),
    "centered_rmsprop": lambda k: t.centered_rmsprop(0.1 + k, 0.99 - 0.3 * k, momentum=0.3 * k),
    "clip_by_global_norm": lambda k: t.clip_by_global_norm(0.5 + 4 * k),
    "clip_by_value": lambda k: t.clip_by_value(0.2 + k),
    "add_decayed_weights": lambda k: t.add_decayed_weights(0.1 * k),
    "masked": lambda k: t.masked(t.adam(0.1 + k), MASK),
    "skip_nonfinite": lambda k: t.skip_nonfinite(t.adam(0.1 + k)),
    "raveled": lambda k: t.raveled(t.chain(t.clip_by_global_norm(0.5 + k), t.adam(0.1 + k))),
}


def normals(seed: int) -> dict:
    """A pytree as networks have it, nested and of several ranks."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {"head": draw(2), "body": {"weight": draw(3, 2), "bias": draw(3)}}


def with_nan(grads: dict) -> dict:
    return grads | {"head": torch.full_like(grads["head"], torch.nan)}


def update_case(name: str) -> Case:
    """Two updates are over, so that no moment is zero; one member of the guard meets a NaN."""
    make = TRANSFORMS[name]

    def arguments(k: int) -> tuple:
        transform, params, grads = make(k), normals(k), normals(10 + k)
        state = transform.init(params)
        for past in (20 + k, 30 + k):
            state, _ = transform.update(state, normals(past), params)
        if name == "skip_nonfinite" and k == 1:
            grads = with_nan(grads)
        return state, grads, params

    return Case(make(0).update, arguments, step=True)


def ema_arguments(k: int) -> tuple:
    return t.ema(0.25 * (k + 1)).init(normals(k)), normals(10 + k)


def named(name: str, function: str) -> str:
    """`trace nesterov` and `init` make `trace.init nesterov`."""
    factory, *variant = name.split()
    return " ".join([f"{factory}.{function}", *variant])


CASES = {
    **{named(name, "update"): update_case(name) for name in TRANSFORMS},
    **{
        named(name, "init"): Case(make(0).init, lambda k: (normals(k),))
        for name, make in TRANSFORMS.items()
    },
    "ema.update": Case(t.ema(0.25).update, ema_arguments, step=True),
    "ema.init": Case(t.ema(0.25).init, lambda k: (normals(k),)),
    "apply_updates": Case(t.apply_updates, lambda k: (normals(k), normals(10 + k))),
    "global_norm": Case(t.global_norm, lambda k: (normals(k),)),
}
