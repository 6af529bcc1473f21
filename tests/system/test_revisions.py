"""A study whose space changes in its midst: nothing old is lost, and all that is new keeps to the new space."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune import api
from autoprune.api import _planning
from autoprune.pipeline import open_workbench
from autoprune.search.proposals.observations import Observer
from tests.ray_nodes import Nodes
from tests.system.conftest import STUDY, Sandbox

pytestmark = pytest.mark.ray

TARGETS = "low = 0.1, high = 0.9, step = 0.05"
REVISED = STUDY.replace('methods = ["', 'methods = ["taylor", "').replace(TARGETS, "low = 0.4, high = 0.8, step = 0.05")


@pytest.fixture(scope="module")
def revised(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> Iterator[Sandbox]:
    """A study of 12 trials that got another method and fewer targets while its first driver was at work."""
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.address}
    box = Sandbox(tmp_path_factory.mktemp("revised"), environment=environment)
    try:
        box.write(n_trials=6)
        first = box.start("launch", "study.toml", "--concurrency", "1")
        box.wait_for(lambda states: states.count("COMPLETE") >= 2)
        box.write(n_trials=12, text=REVISED)
        second = box.start("launch", "study.toml", "--concurrency", "1")
        # The first goes on as it was started, until there are as many as it was asked for.
        assert first.wait(timeout=240) == 0, box.output(first)
        assert second.wait(timeout=240) == 0, box.output(second)
        assert "12 of 12 trials finished" in box.output(second)
        yield box
    finally:
        box.end()


def test_what_was_found_before_stays_and_what_is_new_keeps_to_the_new_space(revised: Sandbox) -> None:
    study = api.open_study("tiny", revised.url)
    trials = study.trials()
    assert (len(trials), set(trials["state"])) == (12, {"COMPLETE"})
    assert sorted(study.configs()) == [1, 2]
    old, new = trials[trials["revision"] == 1], trials[trials["revision"] == 2]
    assert len(old) >= 2
    assert len(new) >= 6
    assert set(old["method"]) == {"magnitude", "slimming"}
    assert "taylor" in set(new["method"])
    assert ((new["macs_target"] == 1) | new["macs_target"].between(0.4, 0.8)).all()  # 1 is the dense network.
    # Outside of what is searched now, and on the front, since nothing costs less.
    least = old["macs_ratio"].min()
    assert least < 0.4
    front = study.front()
    assert least == front["macs_ratio"].min()
    assert set(front["revision"]) == {1, 2}


def test_the_sampler_knows_the_old_trials_that_the_space_still_holds(revised: Sandbox) -> None:
    config = _planning.load_config(revised.folder / "study.toml")
    space = _planning.space_of(config, open_workbench(config.setting))
    study = api.open_study("tiny", revised.url)
    seen = {one.number for one in Observer(space, config.study.objectives).look(study.handle.trials()).finished}
    trials = study.trials()
    assert seen == set(trials[trials["macs_target"].between(0.4, 0.8)]["number"])
    old = set(trials[trials["revision"] == 1]["number"])
    assert seen & old
    assert old - seen


@pytest.mark.parametrize(
    ("old", "new", "told", "n_more"),
    [
        ('methods = ["magnitude", "slimming"]', 'methods = ["random"]\nwidth_rules = ["uniform"]', "gave nothing", 2),
        (TARGETS, "low = 0.001, high = 0.002", "`macs_target` must reach 0.0028, the MACs ratio of the", 0),
        ("[train.dense]\nepochs = 1", "[train.dense]\nepochs = 2", "the study 'tiny' must stay the study that it", 0),
    ],
)
def test_a_revision_that_leaves_nothing_to_search_is_told_in_a_sentence(
    old: str, new: str, told: str, n_more: int, revised: Sandbox
) -> None:
    # Where trials inherit there is always something: more training.
    text = STUDY.replace(old, new).replace(TARGETS, "values = [0.5]").replace("[study]\n", "[study]\ninherit = false\n")
    revised.write(n_trials=99, text=text)
    before = revised.states()
    flags = [] if n_more else ["--dry-run"]  # Without anything to run, it is refused before a cluster is there.
    output = revised.run("launch", "study.toml", *flags, code=2).splitlines()
    assert output[-1].startswith("autoprune: ")
    assert told in output[-1]
    assert "Traceback" not in "".join(output)
    assert revised.states() == before + ["COMPLETE"] * n_more
