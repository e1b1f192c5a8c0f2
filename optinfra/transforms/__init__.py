"""Gradient transformations: `(init, update)` pairs over pytrees of parameters."""

from optinfra.transforms.adam import adam as adam
from optinfra.transforms.adam import adamw as adamw
from optinfra.transforms.adam import scale_by_adam as scale_by_adam
from optinfra.transforms.clipping import clip_by_global_norm as clip_by_global_norm
from optinfra.transforms.clipping import clip_by_value as clip_by_value
from optinfra.transforms.clipping import global_norm as global_norm
from optinfra.transforms.composition import apply_updates as apply_updates
from optinfra.transforms.composition import chain as chain
from optinfra.transforms.ema import Average as Average
from optinfra.transforms.ema import ema as ema
from optinfra.transforms.masking import masked as masked
from optinfra.transforms.nonfinite import skip_nonfinite as skip_nonfinite
from optinfra.transforms.raveling import raveled as raveled
from optinfra.transforms.rmsprop import centered_rmsprop as centered_rmsprop
from optinfra.transforms.rmsprop import rmsprop as rmsprop
from optinfra.transforms.rmsprop import scale_by_rms as scale_by_rms
from optinfra.transforms.rmsprop import scale_by_stddev as scale_by_stddev
from optinfra.transforms.scaling import scale as scale
from optinfra.transforms.scaling import scale_by_learning_rate as scale_by_learning_rate
from optinfra.transforms.scaling import scale_by_schedule as scale_by_schedule
from optinfra.transforms.sgd import sgd as sgd
from optinfra.transforms.sgd import trace as trace
from optinfra.transforms.weight_decay import add_decayed_weights as add_decayed_weights
