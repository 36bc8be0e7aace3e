"""Every loss of the logits."""

from ida_lightning import DIST, DKD, KL, MLKD, NKD, CorrelationDistance, LogitStandardisation

LOSSES = {
    "KL": KL(),
    "DKD": DKD(),
    "DKD whole": DKD(whole=True),
    "NKD": NKD(),
    "DIST": DIST(),
    "pearson": CorrelationDistance(),
    "rank": CorrelationDistance("rank"),
    "standardised": LogitStandardisation(),
    "standardised DKD": LogitStandardisation(DKD()),
    "MLKD": MLKD(),
}
