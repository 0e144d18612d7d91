"""The learning rate of each step. Standard library only."""

import math

from trainers.config import Phase, TrainConfig


def phase_index(phases: tuple[Phase, ...], epoch: int) -> int:
    """Which of the phases an epoch is in."""
    return max(index for index, phase in enumerate(phases) if phase.first_epoch <= epoch)


def learning_rate(config: TrainConfig, epoch: int, done: int, steps: int, factor: float = 1.0) -> float:
    """The rate of one step.

    Within each phase: a linear rise over `warmup_epochs`, from a first step above 0 to the phase's own rate; then that
    rate, or half a cosine from it to 0 (https://arxiv.org/abs/1608.03983) at the phase's end.

    Args:
      config: the run.
      epoch: from 0.
      done: steps of the epoch before this one.
      steps: of an epoch.
      factor: what the plateau rule has come to; it does not bring the rate below `min_learning_rate`.
    """
    phases = config.training_phases
    index = phase_index(phases, epoch)
    ends = [phase.first_epoch for phase in phases[1:]] + [config.epochs]
    step = (epoch - phases[index].first_epoch) * steps + done
    total = (ends[index] - phases[index].first_epoch) * steps
    rising = min(round(config.warmup_epochs * steps), total)
    rate = phases[index].learning_rate
    if step < rising:
        rate *= (step + 1) / rising
    elif config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * (step - rising) / (total - rising))) / 2
    return rate if factor == 1 else max(rate * factor, min(rate, config.min_learning_rate))
