"""Answers to benchmarks that others judge, in the form in which they are handed in. No score is made up here.

| format | file | who judges |
|---|---|---|
| `mm_vet` | JSON, question id -> answer | MM-Vet's evaluator (GPT-4), github.com/yuweihao/MM-Vet |
| `llava_bench` | JSON lines as LLaVA's `model_vqa.py` writes them | LLaVA-Bench's `eval_gpt_review_bench.py` (GPT-4) |
| `mmbench` | Excel table as LLaVA's `convert_mmbench_for_submission.py` writes it | MMBench's server |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from harness.schema import Answer, Exam, HarnessError

ENDINGS = {"mm_vet": "json", "llava_bench": "jsonl", "mmbench": "xlsx"}
"""Formats there are, with the ending of their files."""


def write_submission(exam: Exam, model: str, folder: Path) -> Path:
    """Write an exam's answers for those who judge them; `model` is what the file calls the VLM."""
    assert exam.score is not None
    form = exam.suite.submission
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in f"{exam.suite.name}-{model}")
    path = folder / f"{name}.{ENDINGS[form]}"
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[form](exam.score.answers, model, path)
    return path


def _mm_vet(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    path.write_text(json.dumps({answer.question_id: answer.text for answer in answers}, indent=2) + "\n")


def _llava_bench(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    lines = []
    for answer in answers:
        entry = {
            "question_id": int(answer.question_id),
            "prompt": answer.facts["question"],
            "text": answer.text,
            "answer_id": f"{model}-{answer.question_id}",
            "model_id": model,
            "metadata": {},
        }
        lines.append(json.dumps(entry) + "\n")
    path.write_text("".join(lines))


def _mmbench(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    rows = []
    for answer in answers:
        facts = dict(answer.facts)
        rest: dict[str, object] = {name: facts.pop(name) for name in ("answer", "split") if name in facts}
        row: dict[str, object] = {"index": int(answer.question_id), **facts, "prediction": answer.text, **rest}
        rows.append(row)
    try:
        with pd.ExcelWriter(path, engine="openpyxl") as writer:
            pd.DataFrame(rows).to_excel(writer, index=False)
            for cells in writer.sheets["Sheet1"].iter_rows():
                for cell in cells:
                    if cell.data_type == "f":  # an answer that begins with = is no formula
                        cell.data_type = "s"
    except ImportError as error:
        raise HarnessError('MMBench wants an Excel table: pip install "vlm-harness[submissions]"') from error


WRITERS: dict[str, Callable[[tuple[Answer, ...], str, Path], None]] = {
    "mm_vet": _mm_vet,
    "llava_bench": _llava_bench,
    "mmbench": _mmbench,
}
