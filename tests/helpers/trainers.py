"""A quiet Trainer, and what stands for one."""

import lightning as L


def trainer(tmp_path, **options) -> L.Trainer:
    """A quiet CPU trainer."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
    }
    return L.Trainer(**{**defaults, **options})


class OneProcess:
    """Stands for a Trainer where there is nothing to sum up."""

    barebones = False

    class strategy:
        @staticmethod
        def reduce(sums, reduce_op):
            return sums
