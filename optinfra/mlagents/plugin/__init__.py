"""Trainers for `mlagents-learn`: it collects, saves and exports, and optinfra learns.

    behaviors:
      Walker:
        trainer_type: optinfra_ppo   # or optinfra_sac, optinfra_poca

Installed beside ML-Agents, these are found by its entry points `mlagents.trainer_type`.
"""

from typing import Any

Registered = tuple[dict[str, Any], dict[str, Any]]  # trainers and their settings, by type


def ppo() -> Registered:
    """Tell ML-Agents of `optinfra_ppo`."""
    from optinfra.mlagents.plugin import trainers

    return {"optinfra_ppo": trainers.PPOTrainer}, {"optinfra_ppo": trainers.PPOSettings}


def sac() -> Registered:
    """Tell ML-Agents of `optinfra_sac`."""
    from optinfra.mlagents.plugin import trainers

    return {"optinfra_sac": trainers.SACTrainer}, {"optinfra_sac": trainers.SACSettings}


def poca() -> Registered:
    """Tell ML-Agents of `optinfra_poca`."""
    from optinfra.mlagents.plugin import trainers

    return {"optinfra_poca": trainers.POCATrainer}, {"optinfra_poca": trainers.POCASettings}
