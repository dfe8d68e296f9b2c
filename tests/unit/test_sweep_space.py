"""What a sweep tries, before anything runs: texts to values, combinations to arms, trials to resources."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from xal_ray.config import Ray, build_config
from xal_ray.errors import ConfigError
from xal_ray.sweep.capacity import share_out
from xal_ray.sweep.plan import plan_arm, plan_arms, warnings_of, with_places
from xal_ray.sweep.proposal import known_arms, propose
from xal_ray.sweep.space import (
    MAX_VALUES,
    Choices,
    Interval,
    check_key,
    grid,
    parse_pairs,
    parse_params,
    parse_space,
    scalar,
    tidy,
)

KEY = "select.weight"


def base(**sections):
    return build_config({"name": "tiny", **sections})


def swept(params, **sweep):
    return base(sweep={"params": params, **sweep})


def labels(settings):
    return [each.arm.label for each in propose(settings)[1].arms]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("1:5:2", (1, 3, 5)),
        ("-1:1:1", (-1, 0, 1)),
        (" 0 : 0.2 : 0.1 ", (0.0, 0.1, 0.2)),
        ("1e-3:3e-3:1e-3", (0.001, 0.002, 0.003)),
    ],
)
def test_a_range_has_both_ends_and_no_rounding_noise(text, values):
    found = parse_space(KEY, text).values
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@given(
    low=some.integers(-1000, 1000),
    count=some.integers(1, 40),
    step=some.integers(1, 500),
    digits=some.integers(0, 6),
)
def test_a_range_is_what_decimals_say_it_is(low, count, step, digits):
    def shown(number):
        return f"{number / 10**digits:.{digits}f}" if digits else str(number)

    found = parse_space(KEY, f"{shown(low)}:{shown(low + count * step)}:{shown(step)}").values
    assert found == tuple(float(shown(low + number * step)) for number in range(count + 1))
    assert all(isinstance(value, int) == (digits == 0) for value in found)


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("0:1", Interval(0, 1)),
        ("1e-4:1e-1:log", Interval(0.0001, 0.1, log=True)),
        ("8:64:log", Interval(8, 64, log=True)),
        ("dual,margin", Choices(("dual", "margin"))),
        ("dual , margin", Choices(("dual", "margin"))),
        ("[dual, margin]", Choices(("dual", "margin"))),
        ("1,2.5,1e-3,-3", Choices((1, 2.5, 0.001, -3))),
        ("true,false", Choices((True, False))),
        ("none,minmax", Choices(("none", "minmax"))),
        ("dual", Choices(("dual",))),
    ],
)
def test_other_forms(text, space):
    assert parse_space(KEY, text) == space


def test_a_list_of_the_configuration_is_taken_as_it_is():
    assert parse_space(KEY, ("dual", 0.5, True)) == Choices(("dual", 0.5, True))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "can't be read"),
        ("a,,b", "can't be read"),
        ("a,null", "one text, number"),
        ("[]", "can't be read"),
        ("[a, [b]]", "one text, number"),
        ("{a: b}", "one text, number"),
        ("[a", "can't be read"),
        ("1:0:0.1", "lower end comes first"),
        ("1:1", "lower end comes first"),
        ("0:1:0", "step is above 0"),
        ("0:1:-0.1", "step is above 0"),
        ("0:1:0.1:2", "can't be read"),
        ("0:one", "can't be read"),
        ("0:1:ten", "can't be read"),
        ("0:1:log", "above 0"),
        ("-1:1:log", "above 0"),
        ("0:1:0.0000001", f"{MAX_VALUES} are allowed"),
        (60.1, "needs quotes"),  # what YAML makes of 0:1:0.1 without quotes
        (True, "single value"),
        ((), "can't be read"),
    ],
)
def test_what_can_not_be_read_is_said_with_the_forms_there_are(spec, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_space(KEY, spec)
    assert KEY in str(caught.value)
    assert "low:high:step" in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "name",
        "seed",
        "ray.num_cpus",
        "sweep.seeds",
        "labels.source",
        "pool.path",
        "pool.source.phantom.seed",
        "pool.splits.val",
        "pool.classes",
    ],
)
def test_keys_that_arms_can_not_differ_in(key):
    with pytest.raises(ConfigError, match=f"'{key}' can't be swept"):
        check_key(key)


def test_the_seed_is_answered_with_the_option_for_seeds():
    with pytest.raises(ConfigError, match="--seeds"):
        parse_params({"seed": "0:9:1"})


@pytest.mark.parametrize("key", ["num_rounds", "roi.source", "pool.image_size", "train.learning_rate"])
def test_keys_that_arms_may_differ_in(key):
    check_key(key)


def test_nothing_to_try_is_an_error():
    with pytest.raises(ConfigError, match="nothing to try"):
        parse_params({})


def test_pairs_of_the_command_line():
    assert parse_pairs("--param", ["a.b=0:1", "c = x=y"]) == {"a.b": "0:1", "c": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="--param"):
            parse_pairs("--param", wrong)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1e-3", 0.001), ("true", True), ("dual", "dual"), ("null", None)]
)
def test_one_value(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@given(low=some.floats(-10, 9, allow_nan=False), width=some.floats(0.1, 10), part=some.floats(0, 1))
def test_a_drawn_number_is_short_and_stays_inside(low, width, part):
    space = Interval(low, low + width)
    drawn = min(low + part * width, low + width)
    found = tidy(drawn, space)
    assert low <= found <= low + width
    assert math.isclose(found, drawn, rel_tol=1e-5, abs_tol=1e-12)
    assert float(f"{found:.6g}") == found or found in (space.low, space.high)


def test_drawn_integers_stay_integers():
    assert tidy(8.0, Interval(1, 64, log=True)) == 8
    assert isinstance(tidy(8.0, Interval(1, 64)), int)
    assert isinstance(tidy(3.0, Choices((1, 3), step=2)), int)


def test_the_issues_example():
    """Eleven weights with two strategies are eleven dual arms and one of margin, beside the baseline."""
    found = labels(swept({"select.weight": "0:1:0.1", "select.strategy": "dual,margin"}))
    assert found[0] == "select.strategy=random"
    assert found.count("select.strategy=margin") == 1
    assert [name for name in found if "dual" in name] == [
        f"select.weight={number / 10:g}, select.strategy=dual" for number in range(11)
    ]
    assert len(found) == 13


def test_what_is_left_out_is_named():
    plan = propose(swept({"select.weight": "0:1:0.5", "select.strategy": "margin,random"}))[1]
    assert [each.arm.label for each in plan.arms] == ["select.strategy=random", "select.strategy=margin"]
    assert len(plan.dropped) == 5
    assert "select.weight=0.5, select.strategy=random" in plan.dropped


def test_an_arm_that_equals_the_baseline_is_not_run_twice():
    plan = propose(
        swept({"select.strategy": "dual,margin"}, baseline={"select.strategy": "dual", "select.weight": 0.5})
    )[1]
    assert [(each.arm.label, each.arm.is_baseline) for each in plan.arms] == [
        ("select.strategy=dual, select.weight=0.5", True),
        ("select.strategy=margin", False),
    ]


@pytest.mark.parametrize(
    ("strategy", "key", "counts"),
    [
        ("dual", "select.weight", True),
        ("misalignment", "select.weight", False),
        ("margin", "select.weight", False),
        ("misalignment", "select.normalise", True),
        ("entropy", "select.normalise", False),
        ("random", "select.uncertainty", False),
        ("margin", "select.query_size", True),
    ],
)
def test_parameters_count_where_they_have_an_effect(strategy, key, counts):
    value = {"select.weight": 0.3, "select.normalise": "none", "select.uncertainty": "margin"}.get(key, 7)
    arm = plan_arm(base(), {"select.strategy": strategy, key: value}).arm
    assert (key in arm.params) == counts


def test_an_arm_without_any_effect_is_named_by_its_strategy():
    settings = base(select={"strategy": "margin"}, sweep={"params": {"select.weight": "0:1:0.5"}})
    assert labels(settings) == ["select.strategy=random", "select.strategy=margin"]


def test_values_are_those_of_the_configuration():
    """1 and 1.0 are one weight; a number in a text is a number."""
    plan = plan_arms(base(), [{KEY: 1}, {KEY: 1.0}, {KEY: "0.5"}, {KEY: 0.5}])
    assert [dict(each.arm.params) for each in plan.arms[1:]] == [{KEY: 1.0}, {KEY: 0.5}]
    assert all(isinstance(each.arm.params[KEY], float) for each in plan.arms[1:])


def test_a_folders_name_can_be_read_and_is_safe():
    arm = plan_arm(base(), {"select.weight": 0.3, "model.weights": "../my models/ä.safetensors"})
    assert arm.name.startswith("model.weights=.._my_models_.safetensors,select.weight=0.3-")
    assert set(arm.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=,+-")
    long = plan_arm(base(), {"model.weights": "x" * 300})
    assert len(long.name) < 100


def test_a_folders_name_depends_on_what_trials_do_and_not_on_how_the_arm_is_written():
    """So that a sweep with more parameters finds the trials of an earlier one."""
    alone = plan_arm(base(), {"select.weight": 0.3})
    within = plan_arm(base(), {"select.strategy": "dual", "select.weight": 0.3})
    assert alone.name == within.name
    assert plan_arm(base(ray={"num_cpus": 64}, seed=3), {"select.weight": 0.3}).name == alone.name
    others = [plan_arm(base(), {key: value}).name for key, value in [(KEY, 0.31), ("num_rounds", 3)]]
    assert len({alone.name, *others, plan_arm(base(), {}).name}) == 4
    assert plan_arm(base(), {}).name.startswith("base-")


def test_a_folders_name_stays_as_it_is():
    """Another name would run finished trials again."""
    assert plan_arm(base(), {"select.weight": 0.3}).name.startswith("select.weight=0.3-")
    assert plan_arm(base(), {"select.strategy": "random"}).name.startswith("select.strategy=random-")


def test_unknown_keys_and_values_are_errors_that_name_the_arm():
    with pytest.raises(ConfigError, match="unknown key") as caught:
        labels(swept({"select.wieght": "0,1"}))
    assert "did you mean 'select.weight'?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"'select\.weight' does not fit") as caught:
        labels(swept({"select.weight": "0:2:1"}))
    assert "select.weight=2" in str(caught.value)


def test_a_combination_that_the_configuration_refuses_names_the_arm():
    with pytest.raises(ConfigError, match="needs regions of interest") as caught:
        labels(swept({"roi.source": "none,oracle", "select.strategy": "dual,margin"}))
    assert "the sweep's arm roi.source=none, select.strategy=dual" in str(caught.value)


def test_a_baseline_may_be_anything():
    assert labels(swept({KEY: "0,1"}, baseline={"select.strategy": "margin"}))[0] == (
        "select.strategy=margin"
    )
    with pytest.raises(ConfigError, match=r"select\.strategy"):
        labels(swept({KEY: "0,1"}, baseline={"select.strategy": "rndom"}))


def test_a_grid_needs_a_step():
    with pytest.raises(ConfigError, match="can't go through all values") as caught:
        list(grid(parse_params({KEY: "0:1"})))
    assert "select.weight=0:1:STEP" in str(caught.value)


def test_labels_come_from_the_oracle():
    with pytest.raises(ConfigError, match="oracle"):
        propose(base(labels={"source": "export"}, sweep={"params": {KEY: "0,1"}}))


def test_arms_with_other_images_have_a_pool_beside_the_bases():
    settings = base(
        pool={"path": "pools/mri", "image_size": 64}, sweep={"params": {"pool.image_size": "64,96"}}
    )
    pools = [each.config.pool_path() for each in propose(settings)[1].arms]
    assert pools[0] == pools[1] == Path("pools/mri")
    assert pools[2].parent == Path("pools")
    assert pools[2].name.startswith("mri-")
    assert propose(settings)[1].arms[2].config.pool.image_size == 96


def test_places_become_absolute():
    settings = base(pool={"source": {"path": "in/manifest.csv"}}, model={"weights": "w.pth"})
    placed = with_places(settings, Path("/root"))
    assert placed.pool_path() == Path("/root/pools/tiny")
    assert placed.pool.source.path == Path("/root/in/manifest.csv")
    assert placed.model.weights == "/root/w.pth"
    assert with_places(base(model={"weights": "imagenet"}), Path("/root")).model.weights == "imagenet"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"select.query_size": "10,20"}, "different numbers of labels"),
        ({"num_rounds": "2,3"}, "different numbers of labels"),
        ({"select.max_per_group": "0,1"}, "same labelled set"),
        ({"pool.image_size": "64,96"}, "same labelled set"),
    ],
)
def test_arms_that_are_hard_to_compare_are_warned_about(params, words):
    (sentence,) = warnings_of(params, ["grid"], ["none"])
    assert words in sentence
    assert next(iter(params)) in sentence


def test_a_search_and_a_scheduler_are_warned_about_and_a_grid_of_weights_is_not():
    assert warnings_of([KEY], ["grid", "random"], ["none"]) == []
    assert "asha" in warnings_of([KEY], ["grid"], ["none", "asha"])[0]
    assert "Optuna" in warnings_of([KEY], ["grid", "optuna"], ["none"])[0]


def test_for_a_search_all_pools_and_the_ends_of_ranges_are_known():
    params = {"pool.image_size": "64,96", "pool.channels": "1,3", "select.weight": "0:1"}
    settings = swept(params, search="optuna")
    spaces, plan = propose(settings)
    assert [each.arm.is_baseline for each in plan.arms] == [True]
    known = known_arms(settings, plan, spaces)
    assert len({each.config.pool_path() for each in known}) == 5  # that of the base is another
    assert {0.0, 1.0} <= {each.config.select.weight for each in known}
    with pytest.raises(ConfigError, match=r"pool\.image_size"):
        propose(swept({"pool.image_size": "64:96"}, search="optuna"))


FROZEN = {
    "model": {"freeze": "backbone", "weights": "imagenet"},
    "train": {"augment": "none"},
}


def test_frozen_backbones_are_cached():
    assert base(**FROZEN).obstacle_to_caching() is None
    assert plan_arm(base(**FROZEN), {KEY: 0.1}).config.model.cache_activations


@pytest.mark.parametrize(
    "change",
    [
        {"model.freeze": "none"},
        {"train.augment": "flip"},
        {"train.num_workers": 1},
        {"score.saliency": "layercam"},
        {"score.precision": "bf16"},
    ],
)
def test_only_where_results_stay_what_they_are(change):
    assert not plan_arm(base(**FROZEN), change).config.model.cache_activations


def test_the_user_decides():
    model = {**FROZEN["model"], "cache_activations": False}
    assert not plan_arm(base(**{**FROZEN, "model": model}), {}).config.model.cache_activations
    never = base(**FROZEN, sweep={"cache": "never"})
    assert not plan_arm(never, {}).config.model.cache_activations
    arm = plan_arm(base(**FROZEN), {"model.cache_activations": False})
    assert not arm.config.model.cache_activations


def test_cached_trials_are_other_trials():
    never = base(**FROZEN, sweep={"cache": "never"})
    assert plan_arm(never, {}).name != plan_arm(base(**FROZEN), {}).name


def shared(settings, request="auto", have=(6.0, 0.0), cores=2, num_trials=100):
    return share_out([settings], settings.ray, request, num_trials, have=have, cores=cores)


def test_trials_that_compute_are_as_many_as_cores():
    share = shared(base())
    assert (share.trials_at_once, share.cpus, share.gpus) == (2, 1.0, 0.0)
    assert share.resources.num_actors == 0
    assert shared(base(), cores=64).trials_at_once == 6
    assert shared(base(), cores=64, num_trials=3).trials_at_once == 3


def test_a_given_number_may_exceed_the_cores_but_not_the_logical_cpus():
    assert shared(base(), request=6).trials_at_once == 6
    with pytest.raises(ConfigError, match="7 trials at once do not fit") as caught:
        shared(base(), request=7)
    assert "7 x 1 logical CPUs" in str(caught.value)


def test_a_trial_that_only_drives_takes_what_its_actors_and_workers_take():
    settings = base(ray={"num_actors": 1}, train={"num_workers": 1})
    share = shared(settings)  # .01 + 1 x .5 + 1 x 1 + 1 for reads = 2.51
    assert (share.trials_at_once, share.cpus) == (2, 0.01)
    with pytest.raises(ConfigError, match="do not fit") as caught:
        shared(settings, request=3)
    assert "2.51" in str(caught.value)


def test_a_trial_that_trains_itself_declares_so_beside_its_actors():
    share = shared(base(ray={"num_actors": 2}))  # 1 + 2 x .5 + 1 for reads
    assert (share.trials_at_once, share.cpus) == (2, 1.0)


def test_not_even_one_trial():
    with pytest.raises(ConfigError, match="not even one trial fits"):
        shared(base(ray={"num_actors": 20}))


def test_the_largest_arm_decides():
    arms = [base(), base(train={"num_workers": 3})]
    share = share_out(arms, Ray(), "auto", 10, have=(6.0, 0.0), cores=8)
    assert (share.trials_at_once, share.cpus) == (1, 1.0)  # 1 + 3 x 1 + 1 for reads


@pytest.mark.parametrize(("gpus", "cores", "each"), [(1, 2, 0.5), (4, 2, 1.0), (1, 3, 0.3333), (0, 2, 0.0)])
def test_gpus_are_shared_out_at_most_one_each(gpus, cores, each):
    assert shared(base(), have=(6.0, float(gpus)), cores=cores).gpus == each


def test_trials_on_kept_activations_need_no_gpu():
    assert shared(base(**FROZEN), have=(6.0, 2.0)).gpus == 1.0
    kept = base(model={**FROZEN["model"], "cache_activations": True}, train={"augment": "none"})
    assert shared(kept, have=(6.0, 2.0)).gpus == 0.0


def test_a_given_part_of_a_gpu_limits_the_trials():
    settings = base(ray={"gpus_per_trial": 0.5})
    assert shared(settings, have=(6.0, 0.5)).trials_at_once == 1
    with pytest.raises(ConfigError, match="GPUs"):
        shared(settings, request=2, have=(6.0, 0.5))


@given(
    gpus=some.integers(0, 8),
    actors=some.integers(0, 3),
    workers=some.integers(0, 3),
    cores=some.integers(1, 8),
)
def test_what_is_shared_out_is_never_more_than_there_is(gpus, actors, workers, cores):
    settings = base(ray={"num_actors": actors}, train={"num_workers": workers})
    share = shared(settings, have=(16.0, float(gpus)), cores=cores)
    own = share.resources
    each = share.gpus + actors * own.gpus_per_actor + workers * own.gpus_per_worker
    assert share.trials_at_once * each <= gpus + 1e-9
    nested = actors * own.cpus_per_actor + workers * own.cpus_per_worker
    assert share.trials_at_once * (share.cpus + nested + (nested > 0)) <= 16.0 + 1e-9
    assert "auto" not in (own.num_actors, own.gpus_per_actor, own.gpus_per_worker)
