"""ML-Agents' classes over the pure core: its names, signatures and defaults, without its defects.

    policy = TorchPolicy(0, behavior_spec, settings.network_settings)
    optimizer = TorchPPOOptimizer(policy, settings)
    values, next_values, memories = optimizer.get_trajectory_value_estimates(batch, next_obs, done)
    stats = optimizer.update(batch, num_sequences)

Each holds a state, calls the core and keeps the result. Settings are those of `optinfra.settings`.
"""

from optinfra.mlagents.actions import ActionLogProbs as ActionLogProbs
from optinfra.mlagents.actions import ActionTuple as ActionTuple
from optinfra.mlagents.actions import AgentAction as AgentAction
from optinfra.mlagents.actions import LogProbsTuple as LogProbsTuple
from optinfra.mlagents.actor import SharedActorCritic as SharedActorCritic
from optinfra.mlagents.actor import SimpleActor as SimpleActor
from optinfra.mlagents.buffer import AgentBuffer as AgentBuffer
from optinfra.mlagents.cloning import BCModule as BCModule
from optinfra.mlagents.columns import MissingColumnError as MissingColumnError
from optinfra.mlagents.demonstrations import demo_to_buffer as demo_to_buffer
from optinfra.mlagents.demonstrations import load_demonstration as load_demonstration
from optinfra.mlagents.exchange import export_modules as export_modules
from optinfra.mlagents.exchange import import_modules as import_modules
from optinfra.mlagents.fields import AgentBufferField as AgentBufferField
from optinfra.mlagents.fields import BufferException as BufferException
from optinfra.mlagents.files import load_checkpoint as load_checkpoint
from optinfra.mlagents.files import save_checkpoint as save_checkpoint
from optinfra.mlagents.keys import BufferKey as BufferKey
from optinfra.mlagents.keys import ObservationKeyPrefix as ObservationKeyPrefix
from optinfra.mlagents.keys import RewardSignalKeyPrefix as RewardSignalKeyPrefix
from optinfra.mlagents.keys import RewardSignalUtil as RewardSignalUtil
from optinfra.mlagents.optimizer import Critic as Critic
from optinfra.mlagents.optimizer import Optimizer as Optimizer
from optinfra.mlagents.optimizer import TorchOptimizer as TorchOptimizer
from optinfra.mlagents.optimizer import TorchPOCAOptimizer as TorchPOCAOptimizer
from optinfra.mlagents.optimizer import TorchPPOOptimizer as TorchPPOOptimizer
from optinfra.mlagents.optimizer import TorchSACOptimizer as TorchSACOptimizer
from optinfra.mlagents.options import ConditioningType as ConditioningType
from optinfra.mlagents.options import EncoderType as EncoderType
from optinfra.mlagents.options import RewardSignalType as RewardSignalType
from optinfra.mlagents.options import ScheduleType as ScheduleType
from optinfra.mlagents.policy import ActionInfo as ActionInfo
from optinfra.mlagents.policy import TorchPolicy as TorchPolicy
from optinfra.mlagents.providers import BaseRewardProvider as BaseRewardProvider
from optinfra.mlagents.providers import CuriosityRewardProvider as CuriosityRewardProvider
from optinfra.mlagents.providers import ExtrinsicRewardProvider as ExtrinsicRewardProvider
from optinfra.mlagents.providers import GAILRewardProvider as GAILRewardProvider
from optinfra.mlagents.providers import RNDRewardProvider as RNDRewardProvider
from optinfra.mlagents.providers import create_reward_provider as create_reward_provider
from optinfra.mlagents.specs import ActionSpec as ActionSpec
from optinfra.mlagents.specs import BehaviorSpec as BehaviorSpec
from optinfra.mlagents.specs import DimensionProperty as DimensionProperty
from optinfra.mlagents.specs import ObservationSpec as ObservationSpec
from optinfra.mlagents.specs import ObservationType as ObservationType
from optinfra.mlagents.trajectory import AgentExperience as AgentExperience
from optinfra.mlagents.trajectory import AgentStatus as AgentStatus
from optinfra.mlagents.trajectory import GroupObsUtil as GroupObsUtil
from optinfra.mlagents.trajectory import ObsUtil as ObsUtil
from optinfra.mlagents.trajectory import Trajectory as Trajectory
from optinfra.settings import BehavioralCloningSettings as BehavioralCloningSettings
from optinfra.settings import CuriositySettings as CuriositySettings
from optinfra.settings import GAILSettings as GAILSettings
from optinfra.settings import NetworkSettings as NetworkSettings
from optinfra.settings import POCASettings as POCASettings
from optinfra.settings import PPOSettings as PPOSettings
from optinfra.settings import RewardSignalSettings as RewardSignalSettings
from optinfra.settings import RNDSettings as RNDSettings
from optinfra.settings import SACSettings as SACSettings
from optinfra.settings import TrainerSettings as TrainerSettings
