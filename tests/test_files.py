from pathlib import Path

import pytest

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
