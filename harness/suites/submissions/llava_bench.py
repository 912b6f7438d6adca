"""LLaVA-Bench: JSON lines as LLaVA's `model_vqa.py` writes them, for its `eval_gpt_review_bench.py` (GPT-4)."""

from __future__ import annotations

import json
from pathlib import Path

from harness.schema import Answer
from harness.suites.submissions import fact, number

ENDING = "jsonl"


def write(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    """One line for each answer."""
    lines = []
    for answer in answers:
        entry = {
            "question_id": number(answer),
            "prompt": fact(answer, "question"),
            "text": answer.text,
            "answer_id": f"{model}-{answer.question_id}",
            "model_id": model,
            "metadata": {},
        }
        lines.append(json.dumps(entry) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
