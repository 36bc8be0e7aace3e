"""The figures that a cell of a comparison leaves."""

FIGURES = {
    **dict.fromkeys(("val_acc", "val_nll", "val_ece", "test_acc", "test_nll", "test_ece"), 0.5),
    **dict.fromkeys(("test_nll_scaled", "test_ece_scaled", "temperature", "agreement", "teacher_kl")),
}
RESULT = {
    **{"method": "kd", "seed": 0, "last": FIGURES, "best": FIGURES, "logged": {}, "steps": 8, "seconds": 1.5},
    **{"seconds_per_step": None, "device": "cpu", "initial_weights": "ab", "teacher_sha256": None},
    **{"config_sha256": "cd", "config": {"trainer": {}}},
}
