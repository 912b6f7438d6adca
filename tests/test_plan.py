import pytest

from conftest import MACHINE, make_component, make_evaluation, make_measurement
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.schema import Ceilings, component_key, modules_of
from harness.timing.costs import work_of
from harness.timing.plan import batches, components_of, estimate, estimate_measurement, is_missing, make_plan

CEILINGS = Ceilings(flops_per_second=1e11, bytes_per_second=1e10)


def plan_of(*arguments, direct=0):
    _, configs = compose_all(arguments)
    points = [(make_point(config), "command") for config in configs]
    return make_plan(points, {"cpu": MACHINE}, "rows", direct)


def kinds(plan):
    found = [component.kind for component in plan.components.values()]
    return {kind: found.count(kind) for kind in ("encoder", "connector", "llm", "vlm")}


def test_a_grid_needs_each_encoder_once_and_one_llm_for_each_number_of_tokens():
    grid = ["encoder=tiny_fastvithd,tiny_fastvit", "llm=tiny_qwen2_m", "resolution=64,128,256"]
    plan = plan_of(*grid)
    assert len(plan.points) == 6
    # Tokens: 1, 4, 16 at stride 64 and 4, 16, 64 at stride 32: four different numbers.
    # Both encoders have 512 features, so one connector for each number of tokens, too.
    assert kinds(plan) == {"encoder": 6, "connector": 4, "llm": 4, "vlm": 0}
    three = plan_of("encoder=tiny_fastvithd", "llm=tiny_qwen2_s,tiny_qwen2_m,tiny_qwen2_l", "resolution=64,128")
    assert kinds(three) == {"encoder": 2, "connector": 6, "llm": 6, "vlm": 0}


def test_encoders_and_llms_of_the_same_architecture_are_shared_whatever_they_are_called():
    one, other = make_component(), make_component()
    renamed = other.encoder.model_copy(update={"name": "another", "title": "Another", "source": "elsewhere"})
    assert component_key(one, MACHINE) == component_key(other.model_copy(update={"encoder": renamed}), MACHINE)
    deeper = other.encoder.model_copy(update={"args": {"layers": [9]}})
    assert component_key(one, MACHINE) != component_key(other.model_copy(update={"encoder": deeper}), MACHINE)


def test_connectors_between_equal_widths_are_shared():
    one = make_component("connector")
    deeper = one.llm.model_copy(update={"config": {**one.llm.config, "num_hidden_layers": 9}})
    assert component_key(one, MACHINE) == component_key(one.model_copy(update={"llm": deeper}), MACHINE)
    wider = one.llm.model_copy(update={"config": {**one.llm.config, "hidden_size": 64}})
    assert component_key(one, MACHINE) != component_key(one.model_copy(update={"llm": wider}), MACHINE)


def test_more_blocks_keep_the_key_and_another_rule_changes_it():
    one = make_component()
    for changes, same in (
        ({"blocks": 12}, True),
        ({"repeats": 3}, True),
        ({"warmup": 9}, False),
        ({"lost": 0.5}, False),
    ):
        rules = one.protocol.model_copy(update=changes)
        equal = component_key(one.model_copy(update={"protocol": rules}), MACHINE) == component_key(one, MACHINE)
        assert equal is same, changes


def test_directly_measured_points_are_a_sample_that_does_not_move():
    grid = ["encoder=tiny_fastvithd,tiny_vit", "resolution=64,128,256"]
    few, again = plan_of(*grid, direct=2), plan_of(*reversed(grid), direct=2)
    assert kinds(few)["vlm"] == 2
    chosen = [{p.point.name for p in plan.points if "vlm" in p.components} for plan in (few, again)]
    assert chosen[0] == chosen[1]
    assert kinds(plan_of(*grid, direct=None))["vlm"] == 6
    direct = [c for c in few.components.values() if c.kind == "vlm"]
    assert all(c.weights != "random" and c.checkpoint.startswith("shipped:") for c in direct)


def test_the_llm_of_the_reference_family_has_its_trained_vocabulary():
    _, configs = compose_all(["resolution=64"])
    llm = next(c for c in components_of(make_point(configs[0])) if c.kind == "llm")
    assert llm.llm.config["vocab_size"] > 100


def flat(found):
    return [key for batch in found for unit in batch for key in unit]


def test_a_block_measures_everything_once_in_an_order_that_its_seed_decides():
    plan = plan_of("encoder=tiny_fastvithd,tiny_fastvit", "resolution=64,128,192,256")
    keys = list(plan.components)
    orders = [flat(batches(plan, keys, 0, block)) for block in range(6)]
    assert all(sorted(found) == sorted(keys) for found in orders)
    assert len(set(map(tuple, orders))) == 6
    assert orders[0] == flat(batches(plan, reversed(keys), 0, 0))
    assert orders[0] != flat(batches(plan, keys, 1, 0))
    (batch,) = batches(plan, keys, 0, 0)  # small enough to take turns all together
    assert all(len(unit) == 1 for unit in batch)


def test_a_batch_holds_weights_up_to_a_bound_and_each_model_is_built_once(monkeypatch):
    plan = plan_of("encoder=tiny_fastvithd,tiny_fastvit", "resolution=64,128,192,256")
    monkeypatch.setattr("harness.timing.plan.BATCH_WEIGHT_BYTES", 3 * 2**20)
    for block in range(3):
        found = batches(plan, plan.components, 0, block)
        models = [{modules_of(plan.components[key]) for key in flat([batch])} for batch in found]
        assert len(found) > 1
        assert sum(map(len, models)) == len(set().union(*models))
        for batch, names in zip(found, models, strict=True):
            heads = {modules_of(plan.components[key]): key for key in flat([batch])}
            assert len(names) == 1 or sum(map(plan.weight_bytes, heads.values())) <= 3 * 2**20


def test_the_sides_of_a_comparison_are_one_unit():
    plan = plan_of("encoder=tiny_fastvithd,tiny_fastvit", "resolution=64", direct=0)
    encoders = [key for key, component in plan.components.items() if component.kind == "encoder"]
    together = {key: "encoders" if key in encoders else key for key in plan.components}
    for block in range(4):
        units = [sorted(unit) for batch in batches(plan, plan.components, 0, block, together) for unit in batch]
        assert sorted(encoders) in units
        assert sorted(map(len, units)) == [1] * (len(plan.components) - 2) + [2]


def test_what_the_store_has_is_not_measured_again():
    plan = plan_of("resolution=64", "protocol.blocks=3")
    keys = list(plan.components)
    measurements = {
        keys[0]: {0: make_measurement(), 2: make_measurement(status="timeout", reason="hung", samples=None)}
    }
    assert [len(block) for block in plan.missing({})] == [3, 3, 3]
    assert [keys[0] in block for block in plan.missing(measurements)] == [False, True, True]
    assert [keys[0] in block for block in plan.missing(measurements, force=True)] == [True, True, True]
    asked = list(plan.evaluations)
    evaluation = make_evaluation()
    assert plan.unanswered({asked[0]: evaluation}) == asked[1:]
    assert plan.unanswered({asked[0]: evaluation.model_copy(update={"status": "error"})}) == asked
    assert plan.unanswered({asked[0]: evaluation}, force=True) == asked


@pytest.mark.parametrize(
    ("changes", "repeats", "missing"),
    [
        ({}, 1, False),
        ({"disturbed": True, "attempt": 0}, 1, True),  # a kill came before its repetition
        ({"disturbed": True, "attempt": 1}, 1, False),  # it was repeated, and is reported as disturbed
        ({"disturbed": True, "attempt": 1}, 2, True),
        ({"disturbed": True, "attempt": 0}, 0, False),
        ({"status": "timeout", "reason": "hung", "samples": None}, 1, True),
    ],
)
def test_a_measurement_that_failed_or_was_not_repeated_is_missing(changes, repeats, missing):
    assert is_missing(make_measurement(**changes), repeats) is missing
    assert is_missing(None, repeats)


def test_the_estimate_is_the_model_on_paper():
    encoder = make_component(
        protocol=make_component().protocol.model_copy(update={"max_samples": 10, "min_samples": 6})
    )
    work = work_of(encoder)
    once = work["encode"].flops / (0.2 * 1e11) + 0.012
    expected = once + (10 + 4 + 2) * once + work["encode"].parameters / 2e8  # warm-up, passes, rounds, repeats, weights
    assert estimate_measurement(encoder, work, CEILINGS) == pytest.approx(expected, rel=0.01)


def test_a_measured_measurement_takes_as_long_as_it_took():
    plan = plan_of("resolution=64", "protocol.blocks=2")
    measurements = {key: {0: make_measurement(seconds=7.0)} for key in plan.components}
    todo = plan.missing(measurements)
    assert [len(block) for block in todo] == [0, 3]
    seconds = estimate(plan, todo, list(plan.evaluations), measurements, [make_evaluation(seconds=4.0)], CEILINGS)
    assert seconds.seconds == pytest.approx(6 + 3 * 7.0 + 6 + 3 * 4.0)
    assert (seconds.measurements, seconds.evaluation) == (dict.fromkeys(plan.components, 7.0), 4.0)
    assert estimate(plan, [[], []], [], measurements, [], CEILINGS).seconds == 0.0


def plan_with(machine, *overrides, extrapolate="auto"):
    _, configs = compose_all(overrides)
    points = [(make_point(config), "command") for config in configs]
    return make_plan(points, {"cpu": machine}, "rows", 0, extrapolate)


def test_an_llm_larger_than_memory_is_measured_at_a_few_depths():
    small = MACHINE.model_copy(update={"memory_bytes": 2**30})
    big = ["encoder=fastvithd", "llm=qwen2_0_5b", "resolution=256", "device=cpu"]
    plan = plan_with(small, *big)
    assert set(plan.points[0].components) == {"encoder", "connector", "llm@2", "llm@5", "llm@8"}
    layers = [c.llm.config["num_hidden_layers"] for c in plan.components.values() if c.kind == "llm"]
    assert layers == [2, 5, 8]
    assert "qwen2_0_5b (8 of 24 layers)" in [c.llm.name for c in plan.components.values() if c.kind == "llm"]
    assert set(plan_with(MACHINE, *big).points[0].components) == {"encoder", "connector", "llm"}
    assert "llm" in plan_with(small, *big, extrapolate="never").points[0].components
    assert "llm@2" in plan_with(MACHINE, *big, extrapolate="always").points[0].components
    tiny = plan_with(MACHINE, "resolution=64", extrapolate="always")
    assert "llm" in tiny.points[0].components  # it has no more layers than that


def test_depths_are_shared_by_the_points_that_have_them():
    small = MACHINE.model_copy(update={"memory_bytes": 2**30})
    plan = plan_with(small, "encoder=fastvithd,mci4", "llm=qwen2_0_5b", "resolution=256,512", "device=cpu")
    assert kinds(plan) == {"encoder": 4, "connector": 4, "llm": 6, "vlm": 0}  # both encoders give 16 and 64 tokens


def test_an_encoder_of_tiles_does_the_work_of_all_of_them():
    _, configs = compose_all(["encoder=fastvit", "llm=qwen2_0_5b", "resolution=64", "tiles=1,5"])
    one, five = (components_of(make_point(config)) for config in configs)
    assert five[0].visual_tokens == five[2].visual_tokens == 5 * one[0].visual_tokens
    assert work_of(five[0])["encode"].flops == 5 * work_of(one[0])["encode"].flops
