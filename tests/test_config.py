import pytest

from harness.config import compose_all, options
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
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(HarnessError) as error:
        compose_all(arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
