"""Measurements behind the speed figures in the README; not part of the installed package."""
