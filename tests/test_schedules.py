"""The learning rate of each step, and what epochs without a better one lead to."""

import itertools
import math

import pytest

from trainers.config import TrainConfig
from trainers.monitoring import Monitor, monitored
from trainers.schedules import learning_rate, phase_index

STEPS = 10


def rates(**given) -> list[float]:
    config = TrainConfig(**{"learning_rate": 1.0} | given)
    return [learning_rate(config, step // STEPS, step % STEPS, STEPS) for step in range(config.epochs * STEPS)]


def test_constant():
    assert rates(epochs=2) == [1.0] * 20


def test_warm_up_ends_at_the_rate():
    found = rates(epochs=2, warmup_epochs=0.5)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0] + [1.0] * 15)


def test_cosine_goes_from_the_rate_towards_zero():
    found = rates(epochs=3, warmup_epochs=1, schedule="cosine")
    assert found[9:11] == pytest.approx([1.0, 1.0]) and found[20] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(found[10:])) and 0 < found[-1] < 0.01


def test_each_phase_has_a_schedule_of_its_own():
    phases = ("heads@0:0.5", "all@2:0.1")
    found = rates(epochs=4, phases=phases, warmup_epochs=0.2, schedule="cosine")
    assert found[1] == pytest.approx(0.5) and found[2] == pytest.approx(0.5) and found[19] < 0.01
    assert found[20:22] == pytest.approx([0.05, 0.1]) and found[-1] < 0.002
    config = TrainConfig(epochs=4, phases=phases)
    assert [phase_index(config.training_phases, epoch) for epoch in range(4)] == [0, 0, 1, 1]


def test_warm_up_longer_than_the_phase():
    assert rates(epochs=1, warmup_epochs=2)[-1] == pytest.approx(1.0)


def test_a_lowered_rate_has_a_floor_that_raises_nothing():
    config = TrainConfig(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=1.0)
    assert learning_rate(config, 1, 0, STEPS, 0.5) == 0.5
    assert learning_rate(config, 1, 0, STEPS, 0.01) == 0.2
    assert learning_rate(config, 0, 0, STEPS, 0.01) == pytest.approx(0.1)


def observe(config: TrainConfig, *figures: float) -> list[Monitor]:
    seen = [Monitor()]
    for epoch, figure in enumerate(figures):
        seen.append(seen[-1].observe(config, epoch, figure))
    return seen[1:]


def test_best_epoch():
    seen = observe(TrainConfig(), 0.1, 0.3, 0.3, math.nan, 0.2)
    assert [monitor.best_epoch for monitor in seen] == [0, 1, 1, 1, 1]
    assert observe(TrainConfig(), math.nan, 0.1)[-1].best_epoch == 1


def test_early_stopping_counts_epochs_without_a_better_one():
    config = TrainConfig(early_stopping=2)
    seen = observe(config, 1, 0, 2, 0, 2)
    assert [monitor.ends_training(config, last_phase=True) for monitor in seen] == [False] * 4 + [True]
    assert not seen[-1].ends_training(config, last_phase=False)
    assert not seen[-1].new_phase().ends_training(config, last_phase=True)
    assert not observe(TrainConfig(), *[0] * 50)[-1].ends_training(TrainConfig(), last_phase=True)


def test_plateau_lowers_again_and_again():
    config = TrainConfig(plateau_patience=2, plateau_factor=0.5)
    seen = observe(config, 1, 0, 0, 0, 0, 2, 0, 0)
    assert [monitor.factor for monitor in seen] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert seen[-1].new_phase().factor == 1


def test_monitored():
    scores = {"loss": 2.0, "accuracy": 0.5, "score": 0.4, "valence_ccc": 0.2, "arousal_ccc": 0.6}
    found = {name: monitored(TrainConfig(monitor=name), scores) for name in ("loss", "accuracy", "ccc", "score")}
    assert found == {"loss": -2.0, "accuracy": 0.5, "ccc": pytest.approx(0.4), "score": 0.4}
    assert monitored(TrainConfig(monitor="ccc", heads=("arousal",)), scores) == 0.6
