"""MM-Vet: JSON, question id -> answer, for its evaluator (GPT-4), github.com/yuweihao/MM-Vet."""

from __future__ import annotations

import json
from pathlib import Path

from harness.schema import Answer

ENDING = "json"


def write(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    """One object; the format does not name the model."""
    text = json.dumps({answer.question_id: answer.text for answer in answers}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
