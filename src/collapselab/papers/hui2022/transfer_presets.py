"""The scales of figure 5."""

from __future__ import annotations

from functools import partial
from typing import Any

from collapselab.experiments.recipes import At, Jobs, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import in_arms
from collapselab.papers.hui2022.transfer_jobs import DIGITS, LEFT_OPEN, MNIST_CPU, transfer_jobs, with_control

_CPU_STEPS, _CPU_TUNING, _CPU_SWEEP = 4000, 600, (0.006, 0.021, 0.072, 0.25)
_CPU_DECAY, _CONTROL_DECAYS = 0.02, (0.0, 2.5e-3, 5e-3, 7.5e-3, 0.01, 0.02)
_FAITHFUL = 1.25e-3
_LITERAL = (20, 30, 50, 100, 200, _CPU_STEPS)
_PAPYAN = (30, 275, 470, 700, 1000, _CPU_STEPS)


def _cpu(checkpoints: tuple[int, ...]) -> Jobs:
    half: dict[str, Any] = {"halves": (MNIST_CPU,), "tuning": _CPU_TUNING, "sweep": _CPU_SWEEP}
    return partial(transfer_jobs, checkpoints=checkpoints, **half)


PRESETS = scales(
    in_arms(transfer_jobs),
    paper=At(
        "Nothing is reduced: MNIST and CIFAR-10, 100,000 steps of pre-training and of each fine-tuning. The paper does not "
        "list its checkpoints or the learning rates between 0.0005 and 0.25; here there are six of each. "
        f"{LEFT_OPEN} CIFAR-10 samples are drawn at random, equally many of each class. {common.STEM_NOTE}"
    ),
    cpu=At(
        "Only MNIST, with a quarter of the width; 1,000 digits for pre-training and 500 others for fine-tuning, as in the "
        "paper; all 1,800 other test digits instead of 100. 4,000 steps of pre-training with learning rate 0.01 and 600 of "
        "fine-tuning, instead of 100,000 each. Six checkpoints of each arm; in a pilot run, their train variances were "
        "about evenly spaced on a logarithmic scale. Four learning rates. The weight decay of the papyan arm is "
        f"{_CPU_DECAY:g}, so that train variance vanishes. With {_FAITHFUL:g}, whose product with the sum of learning rates "
        "is that of 5e-4 over 100,000 steps with 0.001, it ended at 3.2 in a pilot run of twice the width. The control, "
        "which the paper lacks, is pre-training for 4,000 steps with six weight decays, each with batch norm. "
        f"{LEFT_OPEN}",
        seeds=10,
        make=with_control(
            in_arms(_cpu(_LITERAL), _CPU_DECAY, papyan=_cpu(_PAPYAN)),
            MNIST_CPU,
            _CONTROL_DECAYS,
            _CPU_STEPS,
            _CPU_TUNING,
            _CPU_SWEEP,
        ),
    ),
    smoke=At(
        "300 training and 200 test digits of 8 x 8 pixels, layers of 32 units, three checkpoints, two learning rates. "
        + common.SMOKE,
        seeds=1,
        changes={"batch_size": 64},
        make=in_arms(
            partial(transfer_jobs, halves=(DIGITS,), checkpoints=(20, 60, 200), tuning=60, sweep=(0.01, 0.1))
        ),
    ),
)
