import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
SLOW_START = [HealthCheck.too_slow]  # the first example of a test pays for torch's lazy set-up
settings.register_profile(
    "ci", max_examples=50, deadline=None, derandomize=True, suppress_health_check=SLOW_START
)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
