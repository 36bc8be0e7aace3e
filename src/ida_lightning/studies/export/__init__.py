"""``ida-lightning export``: a trained network in the files that other programs run, checked against itself."""

from ida_lightning.studies.export.command import export_network

__all__ = ["export_network"]
