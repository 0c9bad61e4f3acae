"""A run's folder: what is done is kept, what was made otherwise is not taken for it."""

import json

import pytest

from mrcnn.errors import InputError
from mrcnn_nuclei.runs import Run, read_step

SETTINGS = {"model": "mrcnn", "epochs": 3, "settings": {"SEED": 1, "SCHEDULE": (("all", 3, 1.0),)}}


class Work:
    """Counts its calls, and fails in those that it is told to."""

    def __init__(self, fails=()):
        self.calls, self.fails = 0, fails

    def __call__(self):
        self.calls += 1
        if self.calls in self.fails:
            raise KeyboardInterrupt
        return {"call": self.calls}


def test_a_step_is_done_once(tmp_path):
    work = Work()
    assert Run(tmp_path, SETTINGS).do("step", work, images=["a"])["call"] == 1
    assert Run(tmp_path, SETTINGS).do("step", work, images=["a"])["call"] == 1
    content = json.loads((tmp_path / "step.json").read_text())
    assert content == {"call": 1, "inputs": {"images": ["a"]}} == read_step(tmp_path, "step")


def test_other_inputs_do_a_step_again(tmp_path):
    run, work = Run(tmp_path, SETTINGS), Work()
    assert [run.do("step", work, images=names)["call"] for names in ("a", "b", "b")] == [1, 2, 2]


def test_a_step_that_broke_off_is_not_done(tmp_path):
    run, work = Run(tmp_path, SETTINGS), Work(fails=[1, 3])
    for inputs, call in (("a", 2), ("b", 4)):
        with pytest.raises(KeyboardInterrupt):
            run.do("step", work, x=inputs)
        # Nor is the one that it would have replaced: its files may be half overwritten.
        assert run.read("step") is None
        assert run.do("step", work, x=inputs)["call"] == call


def test_the_configuration_is_noted(tmp_path):
    Run(tmp_path, SETTINGS)
    config = json.loads((tmp_path / "config.json").read_text())
    notes = config.pop("notes")
    assert config == json.loads(json.dumps(SETTINGS))
    assert {"mrcnn_nuclei", "python", "keras", "numpy"} <= notes["versions"].keys()


def test_other_settings_are_refused_once_there_is_work(tmp_path):
    other = {**SETTINGS, "epochs": 4, "settings": {**SETTINGS["settings"], "SEED": 2}}
    Run(tmp_path, SETTINGS)
    run = Run(tmp_path, other)  # nothing was done with the first ones
    assert run.read("config")["epochs"] == 4
    run.do("step", Work())
    with pytest.raises(InputError, match=r"config\.json: .* another epochs, SEED; give"):
        Run(tmp_path, SETTINGS)
    assert run.read("config")["epochs"] == 4
    # A setting that was not known then, or is not any more, does not matter.
    Run(tmp_path, {**other, "new": 1, "settings": {"SEED": 2}})


def test_work_of_unknown_settings_is_refused(tmp_path):
    Run(tmp_path / "run", {"seed": 0}).do("training", dict)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(InputError, match="config.json: is missing or damaged"):
        Run(tmp_path / "run", {"seed": 0})
