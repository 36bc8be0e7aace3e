from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ida_lightning.files import replacing


def test_the_file_appears_whole_or_not_at_all():
    place = Path("folder/file.txt")
    with replacing(place) as unfinished:
        unfinished.write_text("half")
        assert not place.exists()
    assert place.read_text() == "half"

    def fail():
        with replacing(place) as unfinished:
            unfinished.write_text("other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert place.read_text() == "half"
    assert [file.name for file in place.parent.iterdir()] == ["file.txt"]


def test_the_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "net.safetensors") as unfinished:
        save_file({"weight": torch.ones(1)}, unfinished)
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
