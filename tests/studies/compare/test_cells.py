"""What a method makes of the config that it is merged on."""

import pytest

from ida_lightning.studies.compare.cells import resolve
from tests.helpers.command_line import CONFIGS

FIT = str(CONFIGS / "digits" / "kd_cutmix.yaml")


def callbacks(*parts):
    listed = resolve("method", FIT, *parts)["trainer"]["callbacks"]
    return [(callback["class_path"].rsplit(".", 1)[-1], callback.get("init_args", {})) for callback in listed]


def test_a_replaced_callback_list_inherits_nothing():
    fit = callbacks()
    place = [name for name, _ in fit].index("IsotonicSoftLabelCallback")
    assert fit[place][1]["strength"] == 0
    filler = ["TeacherLabelCallback"] * place
    replaced = callbacks({"trainer": {"callbacks": [*filler, "IsotonicSoftLabelCallback"]}})
    assert [name for name, _ in replaced] == [*filler, "IsotonicSoftLabelCallback"]
    assert replaced[place][1]["strength"] == 1
    strong = {"class_path": "IsotonicSoftLabelCallback", "init_args": {"strength": 0.5}}
    other = {"class_path": "IsotonicSoftLabelCallback", "init_args": {"space": "logits"}}
    [(_, last)] = callbacks({"trainer": {"callbacks": [strong]}}, {"trainer": {"callbacks": [other]}})
    assert (last["strength"], last["space"]) == (1, "logits")


@pytest.mark.parametrize(("more", "added"), [({}, []), ({"callbacks+": ["SpeedCallback"]}, ["SpeedCallback"])])
def test_what_is_added_leaves_the_list_as_it_was(more, added):
    assert [name for name, _ in callbacks({"trainer": more})] == [name for name, _ in callbacks()] + added
    assert callbacks({"trainer": more})[: len(callbacks())] == callbacks()
