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

from harness.schema import Answer, Evaluation, HarnessError, file_stem

ENDINGS = {"mm_vet": "json", "llava_bench": "jsonl", "mmbench": "xlsx"}
"""Formats there are, with the ending of their files."""


def write_submission(evaluation: Evaluation, model: str, folder: Path) -> Path:
    """Write an evaluation's answers for those who judge them; `model` is what the file calls the VLM.

    Raises `HarnessError` where the answers lack what the format wants: nothing is written then.
    """
    form = evaluation.suite.submission
    if evaluation.score is None or form not in WRITERS:
        raise HarnessError(f"{evaluation.suite.name}: no answers, or no form {form!r}; there are: {', '.join(WRITERS)}")
    path = folder / f"{file_stem(f'{evaluation.suite.name}-{model}', 120)}.{ENDINGS[form]}"
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")  # the ending tells pandas the format
    try:
        WRITERS[form](evaluation.score.answers, model, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _number(answer: Answer) -> int:
    """A question's id, for formats that number their questions."""
    if not answer.question_id.isdecimal() or len(answer.question_id) > DIGITS:
        raise HarnessError(f"question {answer.question_id}: a whole number is expected as its id, to hand it in")
    return int(answer.question_id)


DIGITS = 18
"""Longest id that is a number to everybody who reads it."""


def _fact(answer: Answer, name: str) -> object:
    """What the submission needs beside the answer."""
    if name not in answer.facts:
        raise HarnessError(f"question {answer.question_id}: its record has no {name}, which a submission needs")
    return answer.facts[name]


def _mm_vet(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    text = json.dumps({answer.question_id: answer.text for answer in answers}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _llava_bench(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    lines = []
    for answer in answers:
        entry = {
            "question_id": _number(answer),
            "prompt": _fact(answer, "question"),
            "text": answer.text,
            "answer_id": f"{model}-{answer.question_id}",
            "model_id": model,
            "metadata": {},
        }
        lines.append(json.dumps(entry) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _cell(value: object) -> object:
    """A value as a workbook can hold it: no control characters beside tabs and ends of lines."""
    return "".join(c for c in value if c >= " " or c in "\t\n\r") if isinstance(value, str) else value


def _mmbench(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    rows = []
    for answer in answers:
        facts = dict(answer.facts)
        rest: dict[str, object] = {name: facts.pop(name) for name in ("answer", "split") if name in facts}
        row: dict[str, object] = {"index": _number(answer), **facts, "prediction": answer.text, **rest}
        rows.append({name: _cell(value) for name, value in row.items()})
    import pandas as pd  # its import is a quarter of a second of every measuring process

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
