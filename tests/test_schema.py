import pytest
from pydantic import ValidationError

from conftest import MACHINE, make_component, make_evaluation, make_measurement, make_point
from harness.schema import Evaluation, Measurement, component_key, fingerprint, question_key


def test_entries_survive_json():
    for entry in (make_measurement(), make_measurement("llm"), make_evaluation()):
        assert type(entry).model_validate_json(entry.model_dump_json()) == entry


def test_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="surprise"):
        Measurement.model_validate(make_measurement().model_dump() | {"surprise": 1})
    with pytest.raises(ValidationError, match="surprise"):
        Evaluation.model_validate(make_evaluation().model_dump() | {"surprise": 1})


def test_fingerprint_ignores_the_order_of_keys_and_sees_every_value():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_component_is_decided_by_architecture_weights_and_machine_but_not_by_the_folder():
    one = make_component("vlm", weights="abc", checkpoint="/one")
    key = component_key(one, MACHINE)
    assert component_key(one.model_copy(update={"checkpoint": "/two"}), MACHINE) == key
    for changes in (
        {"weights": "abd"},
        {"resolution": 256},
        {"visual_tokens": 16},
        {"text_tokens": 25},
        {"threads": 2},
    ):
        assert component_key(one.model_copy(update=changes), MACHINE) != key, changes
    for changes in ({"device_name": "other"}, {"driver": "1"}, {"governor": "powersave"}, {"build": "25B78"}):
        assert component_key(one, MACHINE.model_copy(update=changes)) != key, changes


def test_an_evaluation_does_not_depend_on_how_latency_is_measured():
    point, suite = make_point(weights="abc"), make_evaluation().suite
    key = question_key(point, suite, MACHINE, "")
    quick = point.protocol.model_copy(update={"warmup": 9})
    assert question_key(point.model_copy(update={"protocol": quick}), suite, MACHINE, "") == key
    assert question_key(point.model_copy(update={"suites": (suite,)}), suite, MACHINE, "") == key
    for other in (
        question_key(point.model_copy(update={"weights": "abd"}), suite, MACHINE, ""),
        question_key(point.model_copy(update={"resolution": 64}), suite, MACHINE, ""),
        question_key(point, suite.model_copy(update={"images": 3}), MACHINE, ""),
        question_key(point, suite, MACHINE, "other rows"),
    ):
        assert other != key


def test_visual_tokens_are_the_square_of_resolution_over_stride():
    assert [make_point(resolution=r).visual_tokens for r in (64, 256, 1024)] == [1, 16, 256]
