"""The exact correction on a GPU: one kernel per batch. Triton is imported when a launch is asked for, not here."""
