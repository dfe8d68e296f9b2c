"""What the tests of sweeps share."""

from xal_ray.config import build_config


def small(tree, **sections):
    """A base that fine-tunes for two steps in each of two rounds."""
    tree = {**tree, "num_rounds": 1, "train": {**tree["train"], "max_steps": 2}, "ray": {"num_cpus": 6}}
    sweep_section = {
        "params": {"select.strategy": ["margin"]},
        "seeds": 2,
        "trials_at_once": 2,
        **sections.pop("sweep", {}),
    }
    return build_config({**tree, **sections, "sweep": sweep_section})


def statuses(outcome):
    return [(trial.arm.label, trial.seed, trial.status) for trial in outcome.trials]
