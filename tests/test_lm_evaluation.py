"""Both ways through lm-eval: its evaluator on our suites with our model, and our model on a task of its own kind."""

import io
from pathlib import Path

import datasets
import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from PIL import Image
from transformers import CLIPImageProcessor

from benchmarks.checkpoints import KINDS
from conftest import talkative
from harness.analysis.scores import statistics_of
from harness.configuration.compose import ROOT
from harness.evaluate import answers
from harness.lm_evaluation import MARK, HarnessLM, SuiteTask, main, no_device, places
from harness.models.answering import Composed
from harness.models.preprocess import pixel_tensor
from harness.models.vlm import load_vlm
from harness.schema import HarnessError
from harness.suites.questions import load
from harness.suites.tasks import FOLDER, load_suite, load_task

RESOLUTION = 64


@pytest.fixture(scope="module")
def model(vlm_folder):
    model = HarnessLM(str(vlm_folder), resolution=RESOLUTION, device="cpu")
    talkative(model.model.vlm)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny LLaVA in the hub's own format."""
    path = KINDS["llava"](tmp_path_factory.mktemp("hub") / "llava")
    model = HarnessLM(str(path), device="cpu")
    model.path = str(path)
    return model


TEXT, NUMBER = datasets.Value("string"), datasets.Value("int64")


def shade(value):
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (value, 255 - value, 99)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def task_of(name, images):
    config = load_task(FOLDER / f"{name}.yaml")
    config["metadata"]["images"] = images
    return SuiteTask(config=config)


def test_lm_eval_finds_every_suite_by_its_folder():
    manager = TaskManager(include_path=str(ROOT / "suite"), include_defaults=False)
    assert {"textvqa", "docvqa", "gqa", "pope", "mmmu", "doc_read"} <= set(manager.all_tasks)


@pytest.mark.parametrize("name", ["doc_read", "shapes"])
def test_lm_eval_gives_our_score_to_our_model_on_our_suite(model, vlm_folder, name):
    suite = load_suite(name, 4)
    out = simple_evaluate(model=model, tasks=[task_of(name, 4)], bootstrap_iters=0, log_samples=True)
    ours = answers.answer_suite(Composed(talkative(load_vlm(vlm_folder)), RESOLUTION), suite)
    assert out["results"][name][f"{suite.metric},none"] == pytest.approx(statistics_of(ours)[0].value)
    said = [sample["resps"][0][0] for sample in out["samples"][name]]
    assert said == [answer.text for answer in ours.answers]


def test_a_task_of_lm_evals_own_kind_runs_through_our_engine(model, tmp_path):
    rows = [
        {"query": f"what is {k}?", "label": [str(k)], "image": Image.new("RGB", (40, 40), (60 * (k // 3), 9, 9))}
        for k in range(6)
    ]
    features = datasets.Features(
        {"query": datasets.Value("string"), "label": datasets.List(datasets.Value("string")), "image": datasets.Image()}
    )
    table = datasets.Dataset.from_list(rows, features=features)
    encoded = []
    encode = model.model.vlm.encode
    model.model.vlm.encode = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    try:
        task = {
            "task": "like_chartqa",
            "custom_dataset": lambda **_: {"test": table},
            "test_split": "test",
            "doc_to_image": ["image"],
            "doc_to_text": "<image>{{query}}",
            "doc_to_target": "{{ label[0] }}",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 6},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        out = simple_evaluate(model=model, tasks=[task], bootstrap_iters=0, log_samples=True)
    finally:
        del model.model.vlm.encode
    assert sum(encoded) == 2  # two images, three questions each
    assert len(out["samples"]["like_chartqa"]) == 6
    assert 0 <= out["results"]["like_chartqa"]["exact_match,none"] <= 1


def request(kind, *arguments, picture):
    return Instance(kind, {}, (*arguments, {"visual": [picture]}), 0)


@torch.inference_mode()
def test_log_likelihoods_with_images_are_those_of_a_whole_forward_pass(model):
    pictures = [Image.new("RGB", (40, 30), (shade, 99, 0)) for shade in (10, 200)]
    asked = [
        request("loglikelihood", f"{MARK}what is the color?", said, picture=picture)
        for picture in pictures
        for said in ("red", "circle square")
    ]
    found = model.loglikelihood(asked)
    vlm = model.model.vlm
    for one, (likely, greedy) in zip(asked, found, strict=True):
        ids = vlm.tokenizer.encode(one.args[1], add_special_tokens=False)
        visual = vlm.project(vlm.encode(pixel_tensor(one.args[2]["visual"][0], vlm.spec.encoder, RESOLUTION)))
        before, after = vlm.question_ids("what is the color?")
        prompt = vlm.prompt(visual, torch.tensor([before]), torch.tensor([[*after, *ids]]))
        logits = vlm.llm(inputs_embeds=prompt).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        assert likely == pytest.approx(sum(logits[k, token].item() for k, token in enumerate(ids)), abs=1e-4)
        assert greedy == (logits.argmax(-1).tolist() == ids)
    assert len({round(likely, 6) for likely, _ in found}) == 4


def test_answers_end_before_a_stop_string_and_come_in_the_order_of_the_requests(model):
    pictures = [Image.new("RGB", (40, 30), (shade, 99, 0)) for shade in (10, 200, 10)]
    wide = [{"max_gen_toks": 8, "until": []}] * 3
    asked = [request("generate_until", f"{MARK}what {k}?", wide[k], picture=p) for k, p in enumerate(pictures)]
    texts = model.generate_until(asked)
    assert texts == [model.generate_until([one])[0] for one in asked]
    stop = texts[0][2:4]
    cut = request("generate_until", f"{MARK}what 0?", {"max_gen_toks": 8, "until": [stop]}, picture=pictures[0])
    assert model.generate_until([cut]) == [texts[0].partition(stop)[0]]


def test_sampling_and_several_images_are_refused(model):
    picture = Image.new("RGB", (40, 30))
    with pytest.raises(HarnessError, match="sampling is not supported"):
        model.generate_until([request("generate_until", "x", {"temperature": 0.7}, picture=picture)])
    two = Instance("generate_until", {}, ("x", {}, {"visual": [picture, picture]}), 0)
    with pytest.raises(HarnessError, match="a question has 2 images"):
        model.generate_until([two])


def test_the_suite_task_asks_what_the_suite_asks(model):
    task = task_of("scene_text", 3)
    task.build_all_requests()
    found = load(load_suite("scene_text", 3))
    assert [one.args[0] for one in task.instances] == [MARK + question.prompt for question in found.asked]
    assert all(one.args[2]["visual"][0].mode == "RGB" for one in task.instances)


def test_images_of_our_tasks_are_handles_that_any_model_can_look_into():
    task = task_of("scene_text", 3)
    task.build_all_requests()
    (handle,) = task.instances[0].args[2]["visual"]
    assert handle._im is None  # nothing is decoded before a model looks
    plain = Image.open(io.BytesIO(handle.stored)).convert("RGB")
    assert (handle.size, handle.mode) == (plain.size, "RGB")
    assert np.array_equal(np.asarray(handle), np.asarray(plain))
    processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    looked, expected = (processor(image, return_tensors="pt")["pixel_values"] for image in (handle, plain))
    assert torch.equal(looked, expected)
    assert handle.resize((8, 8)).tobytes() == plain.resize((8, 8)).tobytes()


def stock(name, path, split, features, rows):
    """A task that lm-eval ships, only with its data in a local file."""
    file = path / f"{split}.parquet"
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(file)
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / name, resolve_func=True)
    return config | {
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file)}},
    }


def test_the_stock_chartqa_runs_through_our_engine(published, tmp_path):
    features = {"query": TEXT, "label": datasets.List(TEXT), "image": datasets.Image(), "human_or_machine": NUMBER}
    rows = [
        {"query": f"what is {k}?", "label": ["7"], "human_or_machine": 0, "image": shade(60 * (k // 2))}
        for k in range(4)
    ]
    task = stock("chartqa/chartqa.yaml", tmp_path, "test", features, rows)
    task["generation_kwargs"]["max_gen_toks"] = 4
    out = simple_evaluate(model=published, tasks=[task], bootstrap_iters=0)
    assert {"exact_match,none", "relaxed_accuracy,none"} <= set(out["results"]["chartqa"])


def test_the_stock_mmmu_runs_through_our_engine_with_several_images(published, tmp_path):
    names = [f"image_{k}" for k in range(1, 8)]
    features = {"id": TEXT, "question": TEXT, "options": TEXT, "answer": TEXT, "question_type": TEXT}
    common = {"options": "['red', 'blue']", "answer": "A", "question_type": "multiple-choice"}
    rows = []
    for k in range(3):
        question = "is <image 1> like <image 2>?" if k else "what is <image 1>?"
        shown = {name: shade(50 * place) if place < 1 + bool(k) else None for place, name in enumerate(names)}
        rows.append({"id": f"validation_Art_{k}", "question": question, **common, **shown})
    task = stock("mmmu/mmmu_art.yaml", tmp_path, "validation", features | dict.fromkeys(names, datasets.Image()), rows)
    task["generation_kwargs"]["max_gen_toks"] = 4
    out = simple_evaluate(model=published, tasks=[task], bootstrap_iters=0)
    assert 0 <= out["results"]["mmmu_val_art"]["acc,none"] <= 1


def test_a_stock_model_gets_our_score_on_our_suite(published):
    """lm-eval's own `hf-multimodal` on our task, our engine on the same checkpoint: same answers, same score."""
    suite = load_suite("scene_text", 3)
    ours = answers.answer_suite(published.model, suite)
    stock_model = HFMultimodalLM(published.path, device="cpu", dtype="float32", batch_size=4)
    out = simple_evaluate(
        model=stock_model,
        tasks=[task_of("scene_text", 3)],
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    said = [sample["resps"][0][0] for sample in out["samples"]["scene_text"]]
    assert said == [answer.text for answer in ours.answers]
    assert out["results"]["scene_text"][f"{suite.metric},none"] == pytest.approx(statistics_of(ours)[0].value)


DOCVQA = {"questionId": TEXT, "question": TEXT, "question_types": datasets.List(TEXT), "answers": datasets.List(TEXT)}


@pytest.fixture
def docvqa(tmp_path):
    """A folder in DocVQA's schema."""
    rows = [
        {
            "questionId": str(k),
            "question": f"what is {k}?",
            "question_types": ["form"],
            "answers": ["7"],
            "image": shade(60 * (k // 2)),
        }
        for k in range(4)
    ]
    (tmp_path / "docvqa").mkdir()
    table = datasets.Dataset.from_list(rows, features=datasets.Features(DOCVQA | {"image": datasets.Image()}))
    table.to_parquet(tmp_path / "docvqa" / "validation-00000-of-00001.parquet")
    return tmp_path / "docvqa"


def task_by_lm_eval(name, **metadata):
    """The task as lm-eval itself builds it from the folder of suites."""
    manager = TaskManager(include_path=str(ROOT / "suite"), include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"][name]


@pytest.mark.parametrize("way", ["environment", "metadata"])
def test_lm_eval_reads_a_suites_data_from_a_folder(way, docvqa, model, monkeypatch):
    if way == "environment":
        monkeypatch.setenv("VLM_HARNESS_DATA", f"{{docvqa: {docvqa}, pope: /nowhere}}")
    given = {"data": {"docvqa": str(docvqa)}} if way == "metadata" else {}
    task = task_by_lm_eval("docvqa", checkpoint="x", revision="of the model", **given)
    out = simple_evaluate(model=model, tasks=[task], bootstrap_iters=0, log_samples=True)
    ours = answers.answer_suite(model.model, load_suite("docvqa", data=str(docvqa)))
    said = [sample["resps"][0][0] for sample in out["samples"]["docvqa"]]
    assert said == [answer.text for answer in ours.answers]
    assert out["results"]["docvqa"]["anls,none"] == pytest.approx(statistics_of(ours)[0].value)


def test_data_that_cannot_be_read_is_one_line_on_lm_evals_side(docvqa, monkeypatch):
    monkeypatch.setenv("VLM_HARNESS_DATA", f'{{"docvqa": "{docvqa}", "textvqa": "/nowhere"}}')
    with pytest.raises(HarnessError, match=r"data=\{textvqa:/nowhere\}: there is no such folder or file"):
        task_by_lm_eval("textvqa")
    (docvqa / "validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(HarnessError, match=r"suite docvqa cannot be asked: .*parquet: not readable"):
        task_by_lm_eval("docvqa")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", {}),
        ("{docvqa: /data/docvqa}", {"docvqa": "/data/docvqa"}),
        ("docvqa:/data/a,pope:/b c", {"docvqa": "/data/a", "pope": "/b c"}),
        ('{"docvqa": "/data/docvqa"}', {"docvqa": "/data/docvqa"}),
    ],
)
def test_places_are_read_as_one_likes_to_write_them(said, found):
    assert places(said) == found


def test_a_place_without_a_suite_is_refused():
    with pytest.raises(HarnessError, match=r"VLM_HARNESS_DATA=/data/docvqa: \{SUITE: FOLDER, \.\.\.\} is expected"):
        places("/data/docvqa")


@pytest.mark.parametrize(
    ("arguments", "unasked"),
    [
        (["--model", "vlm-harness", "--tasks", "x"], True),
        (["run", "-M", "vlm-harness"], True),
        (["--model=vlm-harness", "--device", "cuda:0"], False),
        (["--model=vlm-harness", "--device=cpu"], False),
        (["--model", "hf"], False),
        (["ls", "tasks"], False),
    ],
)
def test_lm_evals_own_device_is_not_taken_for_a_wish(arguments, unasked, tmp_path):
    assert no_device(arguments) is unasked
    stored = tmp_path / "run.yaml"
    stored.write_text("model: vlm-harness\ndevice: cpu\n")
    assert not no_device(["--config", str(stored)])
    stored.write_text("model: vlm-harness\n")
    assert no_device(["--config", str(stored)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "checkpoint=FOLDER is expected"),
        ({"checkpoint": "x", "pretrained": "y"}, "there is no pretrained; there are: checkpoint, resolution"),
        ({"checkpoint": "x", "resolution": "large"}, "resolution=large: a whole number is expected"),
        ({"checkpoint": "x", "device": "cuda:9"}, "device=cuda:9: "),
    ],
)
def test_arguments_of_our_model_are_checked(given, said):
    with pytest.raises(HarnessError, match=said):
        HarnessLM.create_from_arg_obj(given, {"batch_size": 1, "device": "cpu"})


def test_the_command_line_answers_in_one_line(vlm_folder, docvqa, monkeypatch, capsys):
    monkeypatch.setenv("VLM_HARNESS_DATA", f"docvqa:{docvqa}")
    model = ["--model", "vlm-harness", "--include_path", str(ROOT / "suite"), "--tasks", "docvqa", "--model_args"]
    monkeypatch.setattr("sys.argv", ["lm_eval", *model, f"checkpoint={vlm_folder},resolution={RESOLUTION}"])
    assert main() == 0  # no --device: lm-eval's `cuda:0` is not here
    assert "|docvqa|" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["lm_eval", *model, "device=cpu"])
    assert main() == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said == ["error: model_args: checkpoint=FOLDER is expected"]
