"""The contrastive loss of CRD: which of many stored features belong to a row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Compared(NamedTuple):
    """What the features of a batch are compared with.

    Attributes:
        positives: stored features of the images that a row shows, ``(batch, k, features)``.
        shares: of those images in the row, ``(batch, k)``; rows sum to 1.
        negatives: stored features of others, ``(negatives, features)``.
        valid: which of them share no class with a row, bool ``(batch, negatives)``.
    """

    positives: Tensor
    shares: Tensor
    negatives: Tensor
    valid: Tensor


def contrastive_loss(
    features: Tensor, compared: Compared, images: int, temperature: float, constant: float | Tensor
) -> Tensor:
    """Compute the loss of telling the images of a row from others by noise-contrastive estimation.

    With ``P(v) = exp(v . f / temperature) / constant``, K negatives and c = K / images::

        - sum_j share_j log(P(v_j) / (P(v_j) + c)) - sum_negatives log(c / (P(v) + c))

    A row of one image has the paper's loss. The positives of a mixed image are the images in it, each counted by its
    share. Negatives that show a class of the row are left out, and the others count so much more.

    Args:
        features: of the rows, ``(batch, features)``, of length 1.
        compared: stored features of the other network.
        images: in the data set.
        temperature: > 0.
        constant: that normalises P, > 0.

    Returns:
        One loss per row, ``(batch,)``.

    References:
        Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699, eq. 18 and 19.
    """
    drawn = compared.valid.shape[1]
    log_noise = torch.as_tensor(drawn / images, dtype=features.dtype, device=features.device).log()
    log_constant = torch.as_tensor(constant, dtype=features.dtype, device=features.device).log()
    of_positives = torch.einsum("bkf,bf->bk", compared.positives, features) / temperature - log_constant
    of_negatives = features @ compared.negatives.T / temperature - log_constant
    right = (compared.shares * F.softplus(log_noise - of_positives)).sum(1)
    valid = compared.valid.to(features.dtype)
    wrong = (valid * F.softplus(of_negatives - log_noise)).sum(1)
    return right + wrong * drawn / valid.sum(1).clamp_min(1)


def move_bank(bank: Tensor, positions: Tensor, shares: Tensor, features: Tensor, momentum: float) -> None:
    """Move the stored features of the images of a batch to what was seen of them, in place.

    An image that one row shows whole moves to ``momentum * old + (1 - momentum) * features``; one that is mixed, by
    so much less as its share is; one in several rows, to the mean of these by their shares. Then to length 1.

    Args:
        bank: ``(images, features)``.
        positions: int64 ``(batch, k)``, of the images of each row.
        shares: ``(batch, k)``.
        features: of the rows, ``(batch, features)``.
        momentum: from 0 to 1.
    """
    flat = positions.flatten()
    # Every mention of an image gets the sum over all of them, so that it does not matter which is written last.
    same = (flat[:, None] == flat).to(bank.dtype)
    total = same @ shares.to(bank.dtype).flatten()[:, None]
    sums = same @ (shares[:, :, None] * features[:, None]).to(bank.dtype).flatten(0, 1)
    rate = (1 - momentum) * total.clamp(max=1)
    old = bank[flat]
    moved = (1 - rate) * old + rate * sums / total.clamp_min(torch.finfo(bank.dtype).tiny)
    bank[flat] = torch.where(total > 0, F.normalize(moved), old)
