"""Learning rules: each module has one factory that returns a `Learner`."""

from optinfra.learners.batch import PPOBatch as PPOBatch
from optinfra.learners.ppo import PPOHyper as PPOHyper
from optinfra.learners.ppo import PPOParams as PPOParams
from optinfra.learners.ppo import PPOState as PPOState
from optinfra.learners.ppo import ppo as ppo
