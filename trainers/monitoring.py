"""Which epoch is the best, when the rate is lowered, when training ends. Standard library only."""

import dataclasses
import math
from collections.abc import Mapping

from trainers.config import TrainConfig


def monitored(config: TrainConfig, scores: Mapping[str, float]) -> float:
    """The figure that `config.monitor` names, so that more is better; `scores` are those of the validation."""
    if config.monitor == "loss":
        return -scores["loss"]
    if config.monitor == "ccc":
        found = [scores[f"{head}_ccc"] for head in config.heads if head != "expression"]
        return sum(found) / len(found)
    return scores[config.monitor]


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What has been seen so far; each epoch makes a new one.

    Attributes:
      best: the best figure, more is better.
      best_epoch: where it was; -1 before the first.
      waited: epochs of this phase since the last better one.
      waited_at_rate: those since then, or since the rate was lowered.
      factor: the product of all lowerings of this phase.
    """

    best: float = -math.inf
    best_epoch: int = -1
    waited: int = 0
    waited_at_rate: int = 0
    factor: float = 1.0

    def observe(self, config: TrainConfig, epoch: int, figure: float) -> "Monitor":
        """The state after an epoch whose monitored figure is `figure`; NaN is the worst there is."""
        figure = -math.inf if math.isnan(figure) else figure
        if self.best_epoch < 0 or figure > self.best:
            return dataclasses.replace(self, best=figure, best_epoch=epoch, waited=0, waited_at_rate=0)
        seen = dataclasses.replace(self, waited=self.waited + 1, waited_at_rate=self.waited_at_rate + 1)
        if config.plateau_patience and seen.waited_at_rate >= config.plateau_patience:
            seen = dataclasses.replace(seen, waited_at_rate=0, factor=seen.factor * config.plateau_factor)
        return seen

    def new_phase(self) -> "Monitor":
        """Other layers learn now, at another rate: patience begins anew."""
        return Monitor(self.best, self.best_epoch)

    def ends_training(self, config: TrainConfig, *, last_phase: bool) -> bool:
        """Whether early stopping applies; before the last phase it never does, for layers are still to be trained."""
        return last_phase and 0 < config.early_stopping <= self.waited
