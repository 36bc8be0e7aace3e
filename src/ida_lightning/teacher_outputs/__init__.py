"""A teacher's answers to the batches of a fit, stored once and replayed to many students."""

from ida_lightning.teacher_outputs.encoding import Answers, Encoding
from ida_lightning.teacher_outputs.manifest import check_manifest, recorded_fact
from ida_lightning.teacher_outputs.store import OutputStore, Place, Recorded

__all__ = ["Answers", "Encoding", "OutputStore", "Place", "Recorded", "check_manifest", "recorded_fact"]
