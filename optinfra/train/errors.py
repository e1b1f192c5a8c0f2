"""What can go wrong with a run and be said in one line."""


class RunError(RuntimeError):
    """A run that cannot begin or go on. Its text is one line for whoever started it."""
