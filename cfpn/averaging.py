"""The moving average of a network's weights, which validation sees and a run keeps."""

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards a network's after `step`, faster in the first steps, when they still say little."""
    update_averages = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
    means, values = (
        [t for t in module.state_dict().values() if t.is_floating_point()] for module in (averaged, network)
    )
    update_averages(means, values, None)
