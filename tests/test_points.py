import pytest
import torch

from harness.configuration.compose import compose_all
from harness.configuration.points import make_point, no_accuracy
from harness.machine import resolve_device
from harness.models.vlm import hash_checkpoint
from harness.schema import HarnessError


def point_of(*overrides):
    _, configs = compose_all(overrides)
    return make_point(configs[0])


def test_a_trained_point_takes_its_parts_from_the_checkpoint(vlm_folder, monkeypatch):
    import harness.configuration.points

    spec = harness.configuration.points.check_checkpoint(vlm_folder)
    renamed = spec.model_copy(
        update={
            "encoder": spec.encoder.model_copy(update={"name": "tiny_fastvithd"}),
            "llm": spec.llm.model_copy(update={"name": "tiny_qwen2_m"}),
        }
    )
    monkeypatch.setattr(harness.configuration.points, "check_checkpoint", lambda *_: renamed)
    monkeypatch.setattr(harness.configuration.points, "check_parts", lambda *_: None)
    point = point_of(f"checkpoint={vlm_folder}", "resolution=128", "limit=3", "threads=2")
    assert point.model.encoder == renamed.encoder
    assert point.weights == hash_checkpoint(vlm_folder)
    assert [s.images for s in point.suites] == [3, 3, 3]
    assert no_accuracy(point) == ""


def test_a_full_size_point_has_random_weights_and_says_why_it_has_no_accuracy():
    point = point_of("encoder=fastvithd", "llm=qwen2_0_5b", "resolution=512")
    assert (point.weights, point.suites, point.visual_tokens) == ("random", (), 64)
    assert "random weights" in no_accuracy(point)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["resolution=250"], "stride 64, which does not divide it; nearest that work: 192, 256"),
        (["resolution=40"], "nearest that work: 64"),
        (["resolution=0"], "resolution=0: a whole number above 0"),
        (["resolution=abc"], "resolution=abc: a whole number above 0"),
        (["checkpoint=/nowhere"], "checkpoint=/nowhere: there is no such folder"),
        (["tiles=4"], "tiles=4: 1 is expected, or a grid and its overview"),
        (["tiles=5"], "was trained on one image at a time"),
        (["checkpoint=random"], "llm tiny_qwen2_m has no vocabulary of its own"),
        (["encoder=fastvithd"], "no trained checkpoint for fastvithd + tiny_qwen2_m"),
        (["device=tpu"], "unknown device 'tpu'"),
        (["dtype=int8"], "dtype=int8: one of float32, float16, bfloat16"),
        (["threads=0"], "threads=0: a whole number above 0"),
        (["suites=[doc_reed]"], "unknown suite 'doc_reed'; did you mean doc_read"),
        (["protocol.warmup=x"], "protocol: warmup"),
        (["protocol.warmup=-1"], "protocol: warmup"),
        (["protocol.max_samples=0"], "protocol: max_samples"),
        (["suites=doc_read"], "suites=doc_read: a list, e.g. suites=[doc_read,shapes], is expected"),
        (["suites=null"], "suites=null: a list, e.g. suites=[doc_read,shapes], is expected"),
        (["data=x"], "data=x: a folder for a suite, e.g. data={docvqa:/data/docvqa}, is expected"),
        (["data=[doc_read]"], "a folder for a suite, e.g. data={docvqa:/data/docvqa}, is expected"),
        (["data={doc_reed:/tmp}"], "data: unknown suite 'doc_reed'; did you mean doc_read"),
        (["data={docvqa:/tmp}"], "data: unknown suite 'docvqa'"),
        (["data={doc_read:/nowhere/data}"], "data={doc_read:/nowhere/data}: there is no such folder or file"),
        (["data={doc_read:nowhere/data}"], "data={doc_read:nowhere/data}: there is no such folder or file"),
        (["data={doc_read:./nowhere}"], "there is no such folder or file"),
        (["data={doc_read:null}"], "a folder for a suite, e.g. data={docvqa:/data/docvqa}, is expected"),
        (["data={doc_read:[a]}"], "a folder for a suite, e.g. data={docvqa:/data/docvqa}, is expected"),
        (["device=cpu:7"], "device=cpu:7: the last cpu device here is cpu:0"),
        (["device=cpu:x"], "unknown device 'cpu:x'"),
        (["device='cuda:'"], "unknown device 'cuda:'"),
        (["attention=foo"], "attention=foo: one of sdpa, eager"),
        (["encoder.args.layers=[1,1,1,1,1]"], "tiny_fastvithd was trained with args="),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(overrides, said):
    with pytest.raises(HarnessError) as error:
        point_of(*overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_said_with_those_that_are():
    with pytest.raises(HarnessError, match=r"device=cuda: torch .* sees no cuda here \(it sees: .*cpu"):
        point_of("device=cuda")


def test_a_device_may_have_a_number(monkeypatch):
    assert [resolve_device(asked) for asked in ("cpu", "cpu:0")] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(asked) for asked in ("auto", "cuda", "cuda:0", "cuda:1")] == [
        "cuda",
        "cuda",
        "cuda",
        "cuda:1",
    ]
    with pytest.raises(HarnessError, match="device=cuda:2: the last cuda device here is cuda:1"):
        resolve_device("cuda:2")
    with pytest.raises(HarnessError, match="CUDA_VISIBLE_DEVICES=1 makes it the first"):
        point_of("device='cuda:1'")


def test_a_checkpoint_of_another_model_is_refused(vlm_folder):
    for named, said in (("encoder=tiny_vit", "tiny_vit"), ("llm=tiny_qwen2_m", r"micro_fastvithd \+ tiny_qwen2_m")):
        with pytest.raises(HarnessError, match=rf"holds micro_fastvithd \+ micro_qwen2, asked for {said}"):
            point_of(f"checkpoint={vlm_folder}", named)


def test_parts_that_nobody_names_are_those_of_the_folder(vlm_folder):
    point = point_of(f"checkpoint={vlm_folder}")
    assert (point.model.encoder.name, point.model.llm.name) == ("micro_fastvithd", "micro_qwen2")
    assert point.resolution == 128  # its encoder's own


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"the folder has no config.json"):
        point_of(f"checkpoint={tmp_path}")


def test_tiles_are_counted_as_llava_onevision_counts_them():
    """Nine tiles of 384 px and an overview: 7,290 visual tokens of an image of 1,152 px."""
    point = point_of("encoder=siglip_so400m_384_ov", "llm=qwen2_0_5b", "resolution=384", "tiles=10")
    assert (point.input_px, point.visual_tokens) == (1152, 7290)
    assert point.name == "siglip_so400m_384_ov 1152px in 10 tiles qwen2_0_5b"
