"""What our stats are called in TensorBoard: ML-Agents' names, so that dashboards carry over."""

from collections.abc import Mapping

TAGS = {
    # Upstream's.
    "policy_loss": "Losses/Policy Loss",
    "value_loss": "Losses/Value Loss",
    "baseline_loss": "Losses/Baseline Loss",
    "q1_loss": "Losses/Q1 Loss",
    "q2_loss": "Losses/Q2 Loss",
    "continuous_entropy_coef": "Policy/Continuous Entropy Coeff",
    "discrete_entropy_coef": "Policy/Discrete Entropy Coeff",
    "learning_rate": "Policy/Learning Rate",
    "clip_range": "Policy/Epsilon",
    "entropy_coef": "Policy/Beta",
    "entropy": "Policy/Entropy",
    "curiosity_forward_loss": "Losses/Curiosity Forward Loss",
    "curiosity_inverse_loss": "Losses/Curiosity Inverse Loss",
    "rnd_loss": "Losses/RND Loss",
    "gail_loss": "Losses/GAIL Loss",
    "gail_kl_loss": "Losses/GAIL KL Loss",
    "gail_policy_estimate": "Policy/GAIL Policy Estimate",
    "gail_expert_estimate": "Policy/GAIL Expert Estimate",
    "gail_grad_penalty": "Policy/GAIL Grad Mag Loss",
    "gail_beta": "Policy/GAIL Beta",
    "pretraining_loss": "Losses/Pretraining Loss",
    "episode_return_mean": "Environment/Cumulative Reward",
    "episode_length": "Environment/Episode Length",
    # Ours, where the words of the name would read badly.
    "approx_kl": "Diagnostics/Approximate KL",
    "grad_norm": "Diagnostics/Gradient Norm",
}
STREAM_TAGS = {  # by what follows the name of a reward stream
    "_reward": "Policy/{stream} Reward",
    "_value": "Policy/{stream} Value Estimate",
}
OWN_GROUP = "Diagnostics"
MAGNITUDES = ("policy_loss",)  # shown without their sign, as upstream shows them


def tag(name: str) -> str:
    """Name a stat as TensorBoard shows it.

    `<stream>_reward` and `<stream>_value` belong to a reward stream. What ML-Agents has no
    name for comes into a group of its own: `grad_norm` is `Diagnostics/Gradient Norm`.

    Args:
      name: of a stat or of a column of `metrics.csv`, such as `policy_loss`.

    Returns:
      The group and the name in it, such as `Losses/Policy Loss`.
    """
    if name in TAGS:
        return TAGS[name]
    for suffix, pattern in STREAM_TAGS.items():
        stream = name.removesuffix(suffix)
        if stream != name:
            return pattern.format(stream=stream.capitalize())
    words = " ".join(word.capitalize() for word in name.split("_"))
    return f"{OWN_GROUP}/{words}"


def tagged(stats: Mapping[str, float]) -> dict[str, float]:
    """Rename stats for TensorBoard; the policy loss loses its sign there, as upstream.

    Differs: ML-Agents averages |policy loss| over minibatches, this is |average|.

    Args:
      stats: by our name.

    Returns:
      The same by ML-Agents' name.
    """
    return {tag(name): abs(x) if name in MAGNITUDES else x for name, x in stats.items()}
