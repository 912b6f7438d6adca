"""One file adds a runtime, an executor or a source of telemetry: the smallest of each, from a package of one's own."""

import weakref

import numpy as np
import pytest

from conftest import EXECUTION, LLM, install, make_component, make_measurement, make_point
from harness import pipeline, runtimes
from harness.analysis.table import table_of
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point as point_of
from harness.configuration.points import no_accuracy
from harness.models.encoders import build_encoder
from harness.runtimes import torch as eager
from harness.schema import TTFTS, HandoverComponent, HarnessError, Part
from harness.timing import executors, measurer
from harness.timing.plan import components_of
from harness.timing.workloads import build

NUMPY = """
import numpy as np
import psutil

from harness import runtimes


class Device:
    synchronous = True

    def __init__(self):
        self.matrix = np.random.default_rng(0).random((256, 256), dtype=np.float32) / 256
        self.large = np.ones((512, 512), np.float32)
        self.buffer = np.ones(2**22, np.float32)

    def wait(self):
        pass

    def work(self, repeats):
        self.result = self.matrix
        for _ in range(repeats):
            self.result = self.matrix @ self.result

    def fetch(self):
        float(self.result[0, 0])

    def matrix_product(self):
        self.large @ self.large
        return 2 * 512**3

    def copy(self):
        self.buffer.copy()
        return 2 * self.buffer.nbytes

    def release(self):
        pass

    empty_cache = reset_peak = release

    def allocated(self):
        return psutil.Process().memory_info().rss

    def free_bytes(self):
        return runtimes.free_memory()

    def peak(self):
        return self.allocated(), "process (RSS, sampled)"


class Encoder:
    '''Means of patches, times a random matrix.'''

    calls = 0

    def __init__(self, spec):
        self.spec = spec
        self.matrix = np.random.default_rng(0).standard_normal((3, spec.features), dtype=np.float32)

    def at(self, resolution):
        self.grid = resolution // self.spec.stride

    def __call__(self, pixels):
        self.calls += 1
        tiles, grid, stride = len(pixels), self.grid, self.spec.stride
        patches = pixels[:, :, : grid * stride, : grid * stride].reshape(tiles, 3, grid, stride, grid, stride)
        return patches.mean((3, 5)).reshape(tiles, 3, -1).swapaxes(1, 2) @ self.matrix


class Runtime(runtimes.Runtime):
    RUNS = frozenset({"encoder"})

    def __init__(self, execution):
        super().__init__(execution)
        self.device = Device()

    @classmethod
    def libraries(cls):
        return {"numpy": np.__version__}

    def put(self, host):
        return np.array(host, np.float32)

    def take(self, here):
        return here

    def perturb(self, given, value):
        given.flat[0] = value

    def checksum(self, out):
        return float(out.ravel() @ np.cos(np.arange(out.size) % 1009))

    def encoder(self, component):
        return Encoder(component.encoder)
"""

HERE = """
from harness.timing import executors, measurer
from harness.timing.executors import Outcome, perform


class Executor(executors.Executor):
    '''Does everything here, and says so.'''

    def _do(self, task, timeout, progress):
        from harness.timing.measurer import Measurer

        return Outcome.read(perform(Measurer(), task, progress), "somewhere else")
"""

FAN = """
from harness.timing import telemetry


class Source(telemetry.Source):
    MEANINGS = {"fan_level": "how fast the fan turns", "fan_joules": "what that takes"}
    spent = 0.0

    def gauges(self):
        return {"fan_level": 3.0}

    def counters(self):
        self.spent += 0.5
        return {"fan_joules": self.spent}
"""

QUICK = ("resolution=64", "protocol=quick", "suites=[]", "threads=1", "device=cpu", "busy=warn")
QUICK += ("+protocol.lost=1", "+protocol.disturbed=1", "direct=1")


def test_an_encoder_of_another_runtime_is_timed_in_front_of_the_llm_with_the_handover_between(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "telemetry", fan=FAN)
    (tmp_path / package / "fast.py").write_text(NUMPY)
    (tmp_path / package / "here.py").write_text(HERE)
    monkeypatch.chdir(tmp_path)
    asked = [*QUICK, f"encoder_runtime={package}.fast", f"executor={package}.here", "name=mixed"]
    request = pipeline.compose(asked)
    executor = pipeline.make_executor(request.options)
    plan = pipeline.plan(request, executor)
    pipeline.execute(plan, request, executor, pipeline.pending(plan, request), lambda _: None)
    folder, (result,) = pipeline.report(request)

    assert (result.status, result.reason) == ("ok", "")
    assert set(result.measurements) == {"encoder", "handover", "connector", "llm"}  # no whole VLM is one program here
    measurements = {part: blocks[0] for part, blocks in result.measurements.items()}
    assert {each.process for each in measurements.values()} == {"somewhere else"}
    assert measurements["encoder"].component.execution.runtime == f"{package}.fast"
    assert measurements["encoder"].component.execution.libraries == {"numpy": np.__version__}
    assert measurements["llm"].component.execution.runtime == "torch"
    times = result.times()
    assert times["handover"].value > 0
    parts = [times[name].value for name in ("encode", "handover", "project", "prefill")]
    assert times["ttft_model"].value == pytest.approx(sum(parts))
    assert times["ttft_paper"].value == pytest.approx(times["encode"].value + times["prefill_visual"].value)

    (row,) = table_of([result]).to_dict("records")
    assert (row["encoder_runtime"], row["llm_runtime"]) == (f"{package}.fast", "torch")
    assert row["handover"] == times["handover"].value
    assert row["encode_load"] > 0
    assert row["fan_level"] == 3.0
    turns = [each.telemetry.counters["fan_joules"] for each in measurements.values()]
    assert min(turns) >= 0.5
    assert row["fan_joules"] == pytest.approx(sum(turns))
    assert "handover" in (folder / "table.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["encoder_runtime=torhc"], "unknown runtime 'torhc'; did you mean torch"),
        (["encoder_runtime=no_such_package.fast"], "cannot be imported: ModuleNotFoundError"),
        (["encoder_runtime=json.decoder"], "runtime json.decoder: its module has no class Runtime"),
        (["encoder_runtime=torch", "llm_runtime={package}.fast"], "runs no component of kind connector, only: encoder"),
        (["runtime={package}.fast"], "runs no component of kind connector, only: encoder"),
        (["encoder_runtime={package}.fast", "device=cuda"], "this runtime runs on the cpu only"),
    ],
)
def test_a_runtime_that_cannot_do_it_is_one_line_before_anything_is_measured(tmp_path, monkeypatch, asked, said):
    package = install(tmp_path, monkeypatch, "anything", fast=NUMPY)
    _, (config,) = compose_all(["resolution=64", *(one.format(package=package) for one in asked)])
    with pytest.raises(HarnessError, match=said) as error:
        point_of(config)
    assert "\n" not in str(error.value)


def test_an_executor_that_is_none_is_one_line():
    with pytest.raises(HarnessError, match="unknown executor 'proces'; did you mean process"):
        executors.find("proces")
    with pytest.raises(HarnessError, match=r"executor json\.decoder: its module has no class Executor"):
        executors.find("json.decoder")


def test_where_both_runtimes_are_one_nothing_is_handed_over():
    llm = LLM.model_copy(update={"config": {**LLM.config, "vocab_size": 99}})
    same = components_of(make_point(llm=llm))
    assert list(same) == ["encoder", "connector", "llm", "composed_vlm"]
    point = make_point(llm=llm)
    other = point.model_copy(update={"vision": point.vision.model_copy(update={"dtype": "float16"})})
    mixed = components_of(other)
    assert list(mixed) == ["encoder", "handover", "connector", "llm"]
    handover = mixed[Part("handover")]
    assert (handover.source.dtype, handover.execution.dtype) == ("float16", "float32")
    assert handover.execution.attention == ""
    assert (handover.visual_tokens, handover.features) == (4, 64)


def test_a_handover_brings_the_same_numbers_in_the_other_precision():
    source = EXECUTION.model_copy(update={"dtype": "bfloat16"})
    component = make_component("handover", source=source)
    assert isinstance(component, HandoverComponent)
    made = {}
    workload = build(lambda where: made.setdefault(where, runtimes.find("torch")(where)), component, [])
    assert [*workload.run(1)] == ["handover"]
    given = workload._inputs[1]
    assert (given.dtype, workload._out.dtype) == (eager.torch.bfloat16, eager.torch.float32)
    assert eager.torch.equal(workload._out, given.float())
    left = workload.outputs()
    assert (left.calls, left.visual_tokens, left.text_tokens) == (1, 4, 0)
    sums = workload.checksums()
    for number in range(2, 10):
        assert [*workload.run(number)] == ["handover"]
        workload.outputs()
        sums += workload.checksums()
    assert len(set(sums)) == 9  # the ninth pass has the first one's array, and one element differs


def test_the_torch_runtime_gives_what_its_modules_give():
    component = make_component(resolution=128)
    runtime = runtimes.find("torch")(component.execution)
    module = runtime.encoder(component)
    module.at(128)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 128, 128), dtype=np.float32)
    eager.torch.manual_seed(0)
    plain = build_encoder(component.encoder)
    with runtime.session():
        expected = plain.eval()(eager.torch.from_numpy(pixels))
        assert eager.torch.equal(module(runtime.put(pixels)), expected)
    assert module.calls == 1
    assert np.array_equal(runtime.take(runtime.put(pixels)), pixels)


def test_every_sum_with_an_encoder_and_an_llm_holds_the_handover_but_the_papers():
    assert {name for name, stages in TTFTS.items() if "handover" in stages} == {"ttft_model", "ttft_user"}


def test_a_device_is_tested_once_in_a_process_whatever_runs_on_it(monkeypatch):
    asked = []
    told = make_measurement()
    monkeypatch.setattr(measurer, "check_timer", lambda device: (asked.append(device.dtype), told.timer)[1])
    monkeypatch.setattr(measurer, "measure_ceilings", lambda device: told.ceilings)
    one = measurer.Measurer()
    for changes in ({}, {"attention": "sdpa"}, {"attention": "eager"}, {"dtype": "bfloat16"}):
        one._prepare(EXECUTION.model_copy(update=changes))
    assert asked == [eager.torch.float32, eager.torch.bfloat16]


def test_modules_that_are_not_wanted_any_more_are_freed_in_the_next_batch():
    rules = make_component().protocol.model_copy(update={"min_samples": 1, "max_samples": 1, "warmup_seconds": 0})
    one = measurer.Measurer()
    made = [make_component(resolution=resolution, protocol=rules) for resolution in (64, 128)]
    made[1] = made[1].model_copy(update={"encoder": made[1].encoder.model_copy(update={"name": "another"})})
    one.measure([{"first": made[0].model_copy(update={"visual_tokens": 1})}], "0/0", lambda *_: None)
    (built,) = one._built.values()
    module = weakref.ref(built.workload.encoder.module)
    del built
    one.measure([{"second": made[1]}], "0/0", lambda *_: None)
    assert module() is None


def test_only_torch_answers_and_a_whole_vlm_is_one_program(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "anything", fast=NUMPY)
    _, (config,) = compose_all(["resolution=64", f"encoder_runtime={package}.fast", "device=cpu"])
    point = point_of(config)
    assert point.suites == ()
    assert no_accuracy(point) == f"no accuracy: {package}.fast is timed with random weights; only torch answers"
    _, (config,) = compose_all(["resolution=64", "runtime=harness.runtimes.torch", "device=cpu"])
    assert point_of(config).vision.runtime == "torch"
    assert point_of(config).suites
    monkeypatch.setattr(eager.Runtime, "RUNS", eager.Runtime.RUNS - {"composed_vlm"})
    assert Part("composed_vlm") not in components_of(point_of(config))


def test_a_handover_of_much_that_is_never_copied_is_no_cache():
    """Ten tiles of 1024 x 1024: taking and putting float32 on the CPU is the same memory."""
    size = {"tiles": 10, "features": 1024, "visual_tokens": 10 * 1024}
    component = make_component("handover", source=EXECUTION.model_copy(update={"runtime": "torch"}), **size)
    made = {}
    workload = build(lambda where: made.setdefault(where, runtimes.find("torch")(where)), component, [])
    sums = []
    for number in range(1, 8):
        assert [*workload.run(number)] == ["handover"]
        workload.outputs()
    sums = workload.checksums()
    assert len(set(sums)) == len(sums) == 7
