"""Assertions for property tests of your own networks and updates.

    from optinfra import testing
    from optinfra.testing import strategies

Assertions need nothing but torch. What they are fed with comes from
`optinfra.testing.strategies`, which needs hypothesis: pip install 'optinfra[test]'.
"""

from optinfra.testing.assertions import advance_state as advance_state
from optinfra.testing.assertions import assert_compiles_once as assert_compiles_once
from optinfra.testing.assertions import assert_lifts as assert_lifts
from optinfra.testing.assertions import assert_pure as assert_pure
from optinfra.testing.comparison import assert_trees_close as assert_trees_close
from optinfra.testing.comparison import assert_trees_equal as assert_trees_equal
from optinfra.testing.isolation import TRAJECTORY_AXES as TRAJECTORY_AXES
from optinfra.testing.isolation import assert_memory_isolated as assert_memory_isolated
