"""Measurements behind the speed figures in docs/solvers.md; not part of the installed package."""
