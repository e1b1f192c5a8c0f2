"""Combinators: from pure functions to pure functions, from learner to learner."""

from optinfra.lift.cloning import cloning_epochs as cloning_epochs
from optinfra.lift.compiled import TooManyShapesError as TooManyShapesError
from optinfra.lift.compiled import compiled as compiled
from optinfra.lift.ensemble import ensemble as ensemble
from optinfra.lift.ensemble import members as members
from optinfra.lift.epochs import epochs as epochs
