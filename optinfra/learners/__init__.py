"""Learning rules: each module has one factory that returns a `Learner`."""

from optinfra.learners.batch import PPOBatch as PPOBatch
from optinfra.learners.poca import POCAParams as POCAParams
from optinfra.learners.poca import POCAState as POCAState
from optinfra.learners.poca import poca as poca
from optinfra.learners.ppo import PPOParams as PPOParams
from optinfra.learners.ppo import PPOState as PPOState
from optinfra.learners.ppo import ppo as ppo
from optinfra.learners.proximal import PPOHyper as PPOHyper
from optinfra.learners.sac import SACHyper as SACHyper
from optinfra.learners.sac import SACParams as SACParams
from optinfra.learners.sac import SACState as SACState
from optinfra.learners.sac import sac as sac
from optinfra.learners.soft import SACBatch as SACBatch
