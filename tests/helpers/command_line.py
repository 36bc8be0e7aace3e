"""Short runs of shipped configs through the real command line."""

import csv
from pathlib import Path

from ida_lightning.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
QUIET = ["--trainer.enable_progress_bar=false"]


def fit(config, *more):
    main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), *SHORT, *more])


def metrics_of(run=0):
    with Path(f"outputs/lightning_logs/version_{run}/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
