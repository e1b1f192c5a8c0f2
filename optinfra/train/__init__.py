"""Loops: from settings to a finished run, its folder and its report."""
