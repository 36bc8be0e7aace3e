"""The command ``ida-lightning compare``: methods x seeds on one set-up, resumable, with intervals at the end."""

from ida_lightning.studies.compare.command import compare
from ida_lightning.studies.compare.settings import Settings

__all__ = ["Settings", "compare"]
