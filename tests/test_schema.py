import pytest
from pydantic import ValidationError

from conftest import MACHINE, make_point, make_record
from harness.schema import Record, fingerprint, record_key


def test_record_survives_json():
    record = make_record()
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="surprise"):
        Record.model_validate(make_record().model_dump() | {"surprise": 1})


def test_fingerprint_ignores_the_order_of_keys_and_sees_every_value():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_key_is_decided_by_weights_protocol_and_machine_but_not_by_the_folder():
    point = make_point(weights="abc", checkpoint="/one")
    key = record_key(point, MACHINE, "")
    assert record_key(point.model_copy(update={"checkpoint": "/two"}), MACHINE, "") == key
    assert record_key(point.model_copy(update={"weights": "abd"}), MACHINE, "") != key
    slower = point.protocol.model_copy(update={"warmup": 9})
    assert record_key(point.model_copy(update={"protocol": slower}), MACHINE, "") != key
    assert record_key(point, MACHINE.model_copy(update={"device_name": "other"}), "") != key


def test_visual_tokens_are_the_square_of_resolution_over_stride():
    assert [make_point(resolution=r).visual_tokens for r in (64, 256, 1024)] == [1, 16, 256]
