"""ML-Agents' three trainers and their settings."""

from optinfra.mlagents.plugin.off_policy import SACTrainer as SACTrainer
from optinfra.mlagents.plugin.on_policy import POCATrainer as POCATrainer
from optinfra.mlagents.plugin.on_policy import PPOTrainer as PPOTrainer
from optinfra.mlagents.plugin.settings import POCASettings as POCASettings
from optinfra.mlagents.plugin.settings import PPOSettings as PPOSettings
from optinfra.mlagents.plugin.settings import SACSettings as SACSettings
