"""Action distributions: log-probability, entropy, draws and modes as pure maps.

Everything is per dimension and per branch: a row's joint log-probability is the sum over
the last axis. `hybrid` puts continuous dimensions and discrete branches side by side.
"""

from optinfra.distributions.branches import branches_entropy as branches_entropy
from optinfra.distributions.branches import branches_log_prob as branches_log_prob
from optinfra.distributions.branches import branches_mode as branches_mode
from optinfra.distributions.branches import branches_sample as branches_sample
from optinfra.distributions.branches import categorical_log_probs as categorical_log_probs
from optinfra.distributions.branches import mask_logits as mask_logits
from optinfra.distributions.gaussian import clipped_gaussian_log_prob as clipped_gaussian_log_prob
from optinfra.distributions.gaussian import gaussian_entropy as gaussian_entropy
from optinfra.distributions.gaussian import gaussian_log_prob as gaussian_log_prob
from optinfra.distributions.gaussian import gaussian_sample as gaussian_sample
from optinfra.distributions.gaussian import log_normal_cdf as log_normal_cdf
from optinfra.distributions.gaussian import log_tanh_slope as log_tanh_slope
from optinfra.distributions.gaussian import tanh_gaussian_log_prob as tanh_gaussian_log_prob
from optinfra.distributions.gaussian import tanh_gaussian_sample as tanh_gaussian_sample
from optinfra.distributions.joint import Distribution as Distribution
from optinfra.distributions.joint import PolicyOutputs as PolicyOutputs
from optinfra.distributions.joint import hybrid as hybrid
from optinfra.distributions.joint import squashed as squashed
