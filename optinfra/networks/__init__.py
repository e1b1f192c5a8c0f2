"""Networks: `nn.Module` descriptions whose parameters are drawn by key and passed in by name."""

from optinfra.networks.actor_critic import ActorCritic as ActorCritic
from optinfra.networks.actor_critic import Initialization as Initialization
from optinfra.networks.actor_critic import actor_critic as actor_critic
from optinfra.networks.actor_critic import orthogonal_initialization as orthogonal_initialization
from optinfra.networks.actor_critic import separate as separate
from optinfra.networks.actor_critic import shared as shared
from optinfra.networks.actor_critic import shared_actor_critic as shared_actor_critic
from optinfra.networks.actor_critic import vector_body as vector_body
from optinfra.networks.attention import EntityEmbedding as EntityEmbedding
from optinfra.networks.attention import ResidualSelfAttention as ResidualSelfAttention
from optinfra.networks.attention import attend as attend
from optinfra.networks.attention import fixup_normal as fixup_normal
from optinfra.networks.groups import GroupActorCritic as GroupActorCritic
from optinfra.networks.groups import group_actor_critic as group_actor_critic
from optinfra.networks.initializers import Initializer as Initializer
from optinfra.networks.initializers import constant as constant
from optinfra.networks.initializers import draw as draw
from optinfra.networks.initializers import kaiming_normal as kaiming_normal
from optinfra.networks.initializers import lecun_uniform as lecun_uniform
from optinfra.networks.initializers import name_hash as name_hash
from optinfra.networks.initializers import orthogonal as orthogonal
from optinfra.networks.initializers import xavier_uniform as xavier_uniform
from optinfra.networks.modules import Linear as Linear
from optinfra.networks.modules import PolicyHead as PolicyHead
from optinfra.networks.modules import ValueHeads as ValueHeads
from optinfra.networks.modules import VectorBody as VectorBody
from optinfra.networks.modules import relu as relu
from optinfra.networks.modules import swish as swish
from optinfra.networks.modules import tanh as tanh
from optinfra.networks.parts import part as part
from optinfra.networks.recurrent import GRU as GRU
from optinfra.networks.recurrent import LSTM as LSTM
from optinfra.networks.recurrent import RecurrentActorCritic as RecurrentActorCritic
from optinfra.networks.recurrent import Remembering as Remembering
from optinfra.networks.recurrent import recurrent_actor_critic as recurrent_actor_critic
from optinfra.networks.recurrent import separate_recurrent as separate_recurrent
from optinfra.networks.recurrent import shared_recurrent as shared_recurrent
from optinfra.networks.recurrent import (
    shared_recurrent_actor_critic as shared_recurrent_actor_critic,
)
from optinfra.networks.recurrent import step_by_step as step_by_step
from optinfra.networks.recurrent import without_memory as without_memory
from optinfra.networks.soft import SoftActorCritic as SoftActorCritic
from optinfra.networks.soft import soft_actor_critic as soft_actor_critic
from optinfra.networks.soft_values import branch_probs as branch_probs
from optinfra.networks.soft_values import expected_value as expected_value
