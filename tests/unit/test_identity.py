"""Which keys a run is bound to, and that errors advise nothing that is refused for it."""

import ast
import re
from pathlib import Path

import pytest

from xal_ray.advice import bound_keys, followable
from xal_ray.config import HAS_EFFECT, NO_RESULT, build_config, flatten
from xal_ray.errors import StageError

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "name": "a",
    "model": {"weights": "imagenet"},
    "train": {"augment": "none", "minibatch_size": 64},
    "score": {"mc_samples": 4, "subsample": 0.5},
}
# Another value for each key that belongs to the identity, always or beside `BASE`.
OTHERS = {
    "seed": 1,
    "roi.source": "none",
    "model.backbone": "resnet50",
    "model.freeze": "backbone",
    "model.cache_activations": True,
    "model.weights": "none",
    "train.num_workers": 2,
    "train.init": "previous",
    "train.max_steps": 3,
    "train.eval_every_steps": 3,
    "train.patience": 3,
    "train.minibatch_size": 48,
    "train.learning_rate": 0.5,
    "train.weight_decay": 0.5,
    "train.class_weights": "none",
    "train.augment": "flip",
    "train.amp": False,
    "train.num_threads": 1,
    "score.saliency": "layercam",
    "score.precision": "fp32",
    "score.compile": True,
    "score.batch_size": 8,
    "score.rows_per_shard": 8,
    "score.mc_samples": 9,
    "score.mc_dropout": 0.5,
    "score.subsample": 0.25,
    "score.runners_up": 3,
    "score.tie_sigmas": 1.0,
    "select.strategy": "entropy",
    "select.uncertainty": "margin",
    "select.weight": 0.1,
    "select.normalise": "none",
    "select.query_size": 3,
    "select.initial_labels": 3,
    "select.max_per_group": 3,
    "select.shortlist": 50,
    "labels.source": "export",
}
NEEDS = {  # what a value needs beside it
    "roi.source": ["select.strategy=margin"],
    "model.cache_activations": ["model.freeze=backbone"],
    "select.shortlist": ["select.strategy=kcenter"],
}
# Where a key has no effect: what makes it so.
IDLE = {
    "model.weights": [["train.init=scratch"]],
    "score.tie_sigmas": [
        ["score.precision=fp32"],
        ["score.saliency=eigencam"],
        ["model.cache_activations=true", "model.freeze=backbone"],
    ],
    "score.mc_dropout": [["score.mc_samples=0"]],
    "score.runners_up": [["score.subsample=1"]],
    "select.weight": [["select.strategy=margin"], ["select.strategy=misalignment"]],
    "select.normalise": [["select.strategy=random"]],
    "select.uncertainty": [["select.strategy=entropy"]],
    "select.shortlist": [["select.strategy=dual"], ["select.strategy=entropy"]],
}
FREE = {
    "name": "b",
    "num_rounds": 9,
    "pool.path": "elsewhere",
    "ray.num_actors": 7,
    "sweep.seeds": 3,
    "score.max_error_fraction": 0.5,
    "labels.from_run": "runs/other",
}


def all_keys():
    return list(flatten(build_config(BASE).model_dump(mode="json")))


def is_free(key):
    return any(key == name or key.startswith(f"{name}.") for name in NO_RESULT)


def told():
    """The table of docs/reference/configuration.md: key or section to what it says."""
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    table = text[text.index("| keys | in the identity | why |") :].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return {key: cells[1].strip() for cells in rows for key in re.findall(r"`([a-z_.]+)`", cells[0])}


def test_every_key_has_a_decision_and_the_docs_tell_it():
    """A new key fails here until somebody has thought about it."""
    decisions = told()
    for key in all_keys():
        by = [name for name in decisions if key == name or key.startswith(f"{name}.")]
        assert len(by) == 1, f"{key}: no rule of IDENTITY_RULES, or two (then `make docs`)"
        said = decisions[by[0]]
        assert (said == "no") == is_free(key), key
        assert (said not in ("no", "yes")) == (key in HAS_EFFECT), key
        assert is_free(key) or key in OTHERS, f"{key}: needs another value in this test"
    assert set(HAS_EFFECT) == set(IDLE)


@pytest.mark.parametrize("key", OTHERS)
def test_what_results_depend_on_belongs_to_the_identity(key):
    needs = NEEDS.get(key, [])
    before, after = build_config(BASE, needs), build_config(BASE, [*needs, f"{key}={OTHERS[key]}"])
    if key in ("model.cache_activations", "model.freeze"):
        before = build_config(BASE, ["model.freeze=none"] if key == "model.freeze" else needs)
    assert before.has_effect(key)
    assert before.identity() != after.identity()


@pytest.mark.parametrize(("key", "beside"), [(key, beside) for key in IDLE for beside in IDLE[key]])
def test_what_has_no_effect_beside_others_does_not(key, beside):
    before, after = build_config(BASE, beside), build_config(BASE, [*beside, f"{key}={OTHERS[key]}"])
    assert not before.has_effect(key)
    assert before.identity() == after.identity()


@pytest.mark.parametrize("key", FREE)
def test_names_places_resources_and_limits_do_not(key):
    before, after = build_config(BASE), build_config(BASE, [f"{key}={FREE[key]}"])
    assert before != after
    assert before.identity() == after.identity()


# ── what errors advise


def texts_of_next_steps():
    """All texts of the source that an error may give as its next step, with their places."""
    for path in sorted((ROOT / "xal_ray").rglob("*.py")):
        tree = ast.parse(path.read_text())
        given = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "next_step"
        ]
        given += [  # tables of cures, and what is made apart
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(
                isinstance(t, ast.Name) and re.search("cure|next_step|advice", t.id.lower())
                for t in node.targets
            )
        ]
        for value in given:
            words = [
                n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            if words:
                yield f"{path.relative_to(ROOT)}:{value.lineno}", " ".join(words)


def test_all_advice_that_names_a_key_can_be_followed_in_the_same_folder():
    """Followed as it is, by keys that a run is not bound to, or with another --out, which it then says."""
    config = build_config(BASE)
    known = set(all_keys())
    num_bound = num_free = 0
    for where, text in texts_of_next_steps():
        named = {key for key in re.findall(r"[a-z_]+(?:\.[a-z_0-9]+)+", text) if key in known}
        bound = {key for key in named if not is_free(key) and config.has_effect(key)}
        with (
            pytest.raises(StageError) as caught,
            followable(config, lambda: "give another --out for a new run"),
        ):
            raise StageError("it failed", next_step=text)
        advice = caught.value.details["next"]
        assert ("--out" in advice) if bound else (advice == text), where
        num_bound += bool(bound)
        num_free += bool(named and not bound)
    assert num_bound > 10
    assert num_free > 10


def test_advice_in_a_folder_that_is_not_bound_stays_as_it_is():
    with pytest.raises(StageError) as caught, followable(build_config(BASE), lambda: ""):
        raise StageError("it failed", next_step="lower train.learning_rate")
    assert caught.value.details["next"] == "lower train.learning_rate"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("lower train.learning_rate, or set train.amp=false", ["train.learning_rate", "train.amp"]),
        ("set num_rounds=3, or ray.num_actors=1", []),
        ("--set seed=3", ["seed"]),
        ("another --out, with train.amp=false", []),
        ("look at runs/seed/model.weights, model.json and pool.py", []),
    ],
)
def test_keys_are_found_in_words(text, keys):
    assert bound_keys(text, build_config(BASE)) == keys
