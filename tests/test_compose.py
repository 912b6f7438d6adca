import itertools
import random
import re
import time

import pytest

from harness.configuration.compose import compose_all, keys_of, options, usage_of
from harness.configuration.options import FinetuneOptions, PointOptions, RunOptions, TrainOptions
from harness.schema import HarnessError


def names(configs):
    return {(c["encoder"]["name"], c["llm"]["name"], c["resolution"]) for c in configs}


def test_the_default_is_one_point():
    _, configs = compose_all([])
    assert names(configs) == {("tiny_fastvithd", "tiny_qwen2_m", None)}


def test_the_resolution_sweep_is_the_union_of_its_grids():
    common, configs = compose_all(["+sweep=resolution"])
    got = names(configs)
    assert common["sweep"]["name"] == "resolution"
    assert len(configs) == len(got) == 24
    assert len({e for e, _, _ in got}) >= 4
    assert len({r for _, _, r in got}) >= 4
    assert {llm for e, llm, _ in got if e == "tiny_fastvithd"} == {"tiny_qwen2_s", "tiny_qwen2_m", "tiny_qwen2_l"}


def test_the_command_line_wins_over_every_grid_and_may_list_values():
    _, configs = compose_all(["+sweep=resolution", "encoder=fastvithd", "llm=qwen2_0_5b", "resolution=256,512"])
    assert names(configs) == {("fastvithd", "qwen2_0_5b", 256), ("fastvithd", "qwen2_0_5b", 512)}
    _, configs = compose_all(["+sweep=resolution", "resolution=64"])
    assert len(names(configs)) == 6


def test_a_grid_without_a_sweep():
    _, configs = compose_all(["encoder=tiny_vit,tiny_convnext", "resolution=64,128,192"])
    assert len(names(configs)) == 6


def test_the_overrides_of_a_point_make_that_point_alone():
    _, configs = compose_all(["+sweep=resolution", "resolution=64,128", "protocol=quick", "limit=3", "force=true"])
    for config in configs:
        _, again = compose_all(config["overrides"])
        assert len(again) == 1
        same = {k: v for k, v in config.items() if k not in ("overrides", "cell", "force", "sweep")}
        assert same == {k: v for k, v in again[0].items() if k not in ("overrides", "cell", "force", "sweep")}


def narrowed(*arguments):
    common, configs = compose_all(list(arguments))
    return names(configs), common["narrowed"]


def test_a_value_that_points_of_a_sweep_have_chooses_them():
    got, said = narrowed("+sweep=resolution", "encoder=tiny_vit")
    assert got == {("tiny_vit", "tiny_qwen2_m", r) for r in (64, 128, 192, 256)}
    assert said == "encoder=tiny_vit: 4 of 24 points of resolution"
    got, said = narrowed("+sweep=resolution", "encoder=tiny_vit,tiny_convnext", "resolution=64,128")
    assert got == {(e, "tiny_qwen2_m", r) for e in ("tiny_vit", "tiny_convnext") for r in (64, 128)}
    assert said == "encoder=tiny_vit,tiny_convnext resolution=64,128: 4 of 24 points of resolution"
    got, _ = narrowed("+sweep=resolution", "llm=tiny_qwen2_s")
    assert got == {("tiny_fastvithd", "tiny_qwen2_s", r) for r in (64, 128, 192, 256)}


def test_what_a_point_has_without_saying_so_chooses_it_as_well():
    """A cell without `tiles` has one tile, a system has its LLM."""
    _, configs = compose_all(["+sweep=tiling", "tiles=1"])
    assert [c["tiles"] for c in configs] == [1] * 5
    common, configs = compose_all(["+sweep=pruning", "connector=m3_36"])
    assert [c["system"]["name"] for c in configs] == ["m3_7b_36"]
    assert common["narrowed"] == "connector=m3_36: 1 of 10 points of pruning"


def test_of_several_values_those_that_are_there_choose_and_others_replace():
    got, said = narrowed("+sweep=resolution", "resolution=64,96")
    assert got == {(e, m, r) for e, m, _ in narrowed("+sweep=resolution")[0] for r in (64, 96)}
    assert said == ""  # every point stands for one at 96
    got, said = narrowed("+sweep=encoders", "encoder=vit_l_14_336,mci4", "resolution=336")
    assert got == {("vit_l_14_336", "qwen2_0_5b", 336), ("mci4", "qwen2_0_5b", 336)}
    assert said == "encoder=vit_l_14_336,mci4 resolution=336: 1 of 15 points of encoders"


AXES = {
    "resolution": {"encoder": ["tiny_vit", "tiny_fastvithd", "mci4"], "resolution": ["64", "96", "256"]},
    "tiling": {"tiles": ["1", "5", "17"], "resolution": ["256", "384", "448"], "encoder": ["fastvithd", "fastvit"]},
    "pruning": {"system": ["m3_7b_9", "llava_1_5_7b", "nanollava"], "llm": ["vicuna_7b", "qwen2_7b"]},
}


@pytest.mark.parametrize("sweep", AXES)
def test_several_values_are_the_union_of_each_alone(sweep):
    rng = random.Random(sweep)

    def cells(overrides):
        try:
            return {tuple(sorted(c["overrides"])) for c in compose_all([f"+sweep={sweep}", *overrides])[1]}
        except HarnessError:  # not at once
            return set()

    for _ in range(2):
        axes = {key: rng.sample(values, 2) for key, values in rng.sample([*AXES[sweep].items()], 2)}
        alone = [
            cells([f"{k}={v}" for k, v in zip(axes, one, strict=True)]) for one in itertools.product(*axes.values())
        ]
        assert cells([f"{key}={','.join(values)}" for key, values in axes.items()]) == set().union(*alone)


def test_values_that_no_point_has_at_once_are_named():
    with pytest.raises(
        HarnessError, match="no point of sweep resolution has encoder=tiny_vit llm=tiny_qwen2_s at once"
    ):
        compose_all(["+sweep=resolution", "encoder=tiny_vit", "llm=tiny_qwen2_s"])


def test_a_training_is_narrowed_as_a_sweep_is():
    common, configs = compose_all(["+training=reference_family", "encoder=tiny_vit"], root="train")
    assert [(c["encoder"]["name"], c["llm"]["name"]) for c in configs] == [("tiny_vit", "tiny_qwen2_m")]
    assert common["narrowed"] == "encoder=tiny_vit: 1 of 8 points of reference_family"


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("resolution=range(64,257,64)", [64, 128, 192, 256]),
        ("resolution=choice(64,128)", [64, 128]),
        ("encoder=glob(tiny_*)", ["tiny_convnext", "tiny_fastvit", "tiny_fastvithd", "tiny_vit"]),
        ("encoder=glob(tiny_*,exclude=*vit*)", ["tiny_convnext"]),
    ],
)
def test_hydras_functions_list_values(argument, values):
    _, configs = compose_all([argument])
    key = argument.partition("=")[0]
    assert [c[key]["name"] if key == "encoder" else c[key] for c in configs] == values


@pytest.mark.parametrize("root", ["config", "train", "finetune"])
def test_every_option_is_checked_and_in_the_help(root):
    keys, groups = keys_of(root)
    models = {"config": (RunOptions, PointOptions), "train": (TrainOptions,), "finetune": (FinetuneOptions,)}[root]
    checked = {name for model in models for name in model.model_fields}
    assert checked == set(keys)
    said = usage_of(root)
    for key in (*keys, *groups):
        assert re.search(rf"^  \+?{key}=\S.*  \w", said, re.MULTILINE), key
    for model in models:
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("group", ["encoder", "llm", "connector", "protocol"])
def test_every_option_of_every_group_composes(group):
    for name in options(group):
        _, configs = compose_all([f"{group}={name}"])
        assert len(configs) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encoder=fastvitd"], "unknown encoder 'fastvitd'; did you mean fastvit"),
        (["encoder=fastvithd,fastvitd"], "unknown encoder 'fastvitd'"),
        (["llm=qwen2_05b"], "unknown llm 'qwen2_05b'; did you mean qwen2_0_5b"),
        (["+sweep=resolutoin"], "unknown sweep 'resolutoin'; did you mean resolution"),
        (["protocol=fast"], "unknown protocol 'fast'"),
        (["resolutoin=64"], "unknown option 'resolutoin'; did you mean resolution"),
        (["+sweeep=resolution"], "unknown option 'sweeep'; did you mean sweep"),
        (["encoder="], "unknown encoder ''"),
        (["resolution=[64"], "[64"),
        (["protocol.warm=1"], "protocol.warm"),
        (["+sweep=resolution,resolution"], "one sweep at a time"),
        (["~resolution"], "nothing can be taken away"),
        (["seed=1,2"], "one value is expected"),
        (["resolution=range(1,1000000000)"], "999999999 values; 1 to 20000 are taken"),
        (["resolution=range(1,200,0)"], "a step other than 0"),
        (["resolution=range(0,inf)"], "inf is not a finite number"),
        (["resolution=range(1,201)", "threads=range(1,201)"], "40000 points; a sweep has 1 to 20000"),
        (["resolution=interval(1,100)"], "an interval holds no values"),
        (["resolution=glob(*)"], "no name of a config file fits"),
        (["timeout=inf"], "timeout=inf: inf is not a finite number"),
        (["timeout=nan"], "timeout=nan: nan is not a finite number"),
        (["timeout=true"], "timeout=true: a number of seconds above 0 is expected"),
        (["protocol.max_seconds=inf"], "inf is not a finite number"),
        (["seed=" + "9" * 5000], "at most 4096 are taken"),
        (["seed=" + "9" * 3000], "a whole number of 9966 bits"),
        (["seed=true"], "seed=true: a whole number from 0 is expected"),
        (["direct=-1"], "direct=-1: a whole number from 0 or all is expected"),
        (["force=1"], "force=1: true or false is expected"),
        (["threads=1000000"], "threads=1000000: a whole number above 0 and of at most"),
        (["tiles=1e9"], "tiles=1000000000.0: a whole number above 0"),
        (["resolution=true"], "resolution=true: a whole number above 0"),
        (["data=x"], "data=x: a folder for a suite"),
        (["also=x"], "also=x: a mapping of encoders is expected"),
        (["suites=x"], "suites=x: a list, e.g. suites=[doc_read,shapes], is expected"),
        (["suites=[[x]]"], "suites=[['x']]: a list"),
        (["checkpoint=[]"], "checkpoint=[]: auto, random or a folder is expected"),
        (["name=../.."], "name=../..: a name of letters"),
        (["+sweep.grids=5"], "sweep.grids: 5: "),
        (["+sweep.grids=[5]"], "sweep.grids.0: 5: "),
        (["+sweep.grids=[{nosuch:1}]"], "unknown option 'nosuch'"),
        (["+sweep.grids=[{encoder:[a,[b]]}]"], "sweep.grids"),
        (["+sweep.options=5"], "sweep.options: 5: "),
        (["+sweep.options={nosuch:1}"], "unknown option 'nosuch'"),
        (["+sweep.claims=[{}]"], "sweep.claims.0.id"),
        (["+sweep.name=../.."], "sweep.name: ../..: "),
        (["+sweep.other=1"], "sweep.other"),
        (["+sweep=resolution", "sweep.title=[]"], "sweep.title"),
        (["seed=${oc.env:HOME}"], "interpolations are not taken"),
        (["limit=\x1b[31m"], "control characters"),
        (["limit=\udcff"], "control characters"),
        (["[" * 500], "KEY=VALUE is expected"),
        (["limit=" + "[" * 500 + "]" * 500], "KEY=VALUE is expected"),
        (["limit"], "KEY=VALUE is expected"),
        (["hydra.run.dir=/tmp/x"], "unknown option 'hydra.run.dir'"),
        (["+suite=docvqa"], "unknown option 'suite'"),
        (["+training=reference_family"], "unknown option 'training'"),
        (["encoder=null"], "unknown encoder 'null'"),
        (["resolution=1"] * 300, "300 arguments"),
    ],
)
def test_bad_input_is_one_line_at_once(arguments, said):
    begin = time.process_time()
    with pytest.raises(HarnessError) as error:
        compose_all(arguments)
    assert said in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 300
    assert time.process_time() - begin < 3
