"""RobustBench 1.1.1 as it comes from the registry, working: import, zoo, data sets and `benchmark`, also offline.

Importing this file imports nothing of robustbench; the first call does, through `enable`.
"""

from art_lowrank.hosts.robustbench_benchmark import attacked, benchmark, clean_accuracy
from art_lowrank.hosts.robustbench_data import (
    imagenet_rows,
    imagenet_size,
    load_cifar10,
    load_cifar10c,
    load_cifar100,
    load_cifar100c,
    load_imagenet,
)
from art_lowrank.hosts.robustbench_enable import enable
from art_lowrank.hosts.robustbench_zoo import architecture, available, load_model, preprocessing_of

__all__ = [
    "architecture",
    "attacked",
    "available",
    "benchmark",
    "clean_accuracy",
    "enable",
    "imagenet_rows",
    "imagenet_size",
    "load_cifar10",
    "load_cifar10c",
    "load_cifar100",
    "load_cifar100c",
    "load_imagenet",
    "load_model",
    "preprocessing_of",
]
