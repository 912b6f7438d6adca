"""Published scores beside measured latencies: `accuracy=published`. Their source goes wherever they go."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from harness.schema import HarnessError
from harness.storage.intake import read_text

AVG5 = ("GQA", "TextVQA", "POPE", "DocVQA", "SeedBenchI")
"""FastVLM's Avg-5."""
HERE = Path(__file__).parents[2] / "results" / "published"
"""The data that comes with the project."""
COLUMNS = {"recipe", "system", "encoder", "llm", "resolution", "visual_tokens", "metric", "score", "source"}


def open_published(results: Path, name: str, columns: set[str]) -> pd.DataFrame:
    """`published/NAME` under a results folder, or that of the project, as text; refused without these columns."""
    path = next((p for p in (results / "published" / name, HERE / name) if p.is_file()), None)
    if path is None:
        raise HarnessError(f"published data: there is no {name} in {results / 'published'} or {HERE}")
    try:
        table = pd.read_csv(io.StringIO(read_text(path)), keep_default_na=False, dtype=str)
    except ValueError as error:
        raise HarnessError(f"{path}: not readable: {error}") from error
    if missing := columns - set(table.columns):
        raise HarnessError(f"{path}: the column {sorted(missing)[0]} is missing")
    return table


def read_scores(results: Path) -> pd.DataFrame:
    """`published/accuracy.csv`, scores as numbers."""
    table = open_published(results, "accuracy.csv", COLUMNS)
    table["score"] = pd.to_numeric(table["score"], errors="coerce").where(lambda score: score.between(-1e6, 1e6))
    return table


def encoder_latencies(table: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Published latencies of the encoders of a table, every series that there is, beside those measured here.

    Columns: encoder, resolution, series, published seconds with device and source, and seconds here.
    """
    columns = {"encoder", "resolution", "latency_ms", "device", "runtime", "series", "source"}
    known = open_published(results, "encoder_latency.csv", columns)
    seconds = pd.to_numeric(known["latency_ms"], errors="coerce") / 1e3
    known = known.assign(seconds=seconds)[seconds.between(0, 1e6, inclusive="neither")]
    rows = []
    if {"encode", "towers"} <= set(table.columns):
        place = ["towers", "input_px", "machine", "dtype", "threads"]
        shown = table[table["tiles"] == 1].dropna(subset=["encode", "towers"]).drop_duplicates(place)
        for row in shown.to_dict("records"):
            same = (known["encoder"] == row["towers"]) & (known["resolution"] == str(row["input_px"]))
            rows += [
                {
                    "encoder": row["towers"],
                    "resolution": row["input_px"],
                    "series": each["series"],
                    "published": each["seconds"],
                    "device": f"{each['device']}, {each['runtime']}",
                    "source": each["source"],
                    "here": row["encode"],
                    "here_device": f"{row['device_name']} ({row['device']}, {row['dtype']}, {row['threads']} threads)",
                }
                for each in known[same].to_dict("records")
            ]
    return pd.DataFrame(rows)


def with_published(table: pd.DataFrame, results: Path, recipe: str) -> pd.DataFrame:
    """A table of points with the published scores of the same encoder or system, LLM, resolution, number of visual
    tokens and recipe.

    Columns `published_<metric>` hold them as shares; `accuracy` is their Avg-5 (as printed, else the mean of its five
    where all are there), `accuracy_source` says whose. A point of which nothing was published has no accuracy.
    """
    scores = read_scores(results)
    scores = scores[scores["recipe"] == recipe]
    if scores.empty:
        known = ", ".join(sorted({name for name in read_scores(results)["recipe"] if name}))
        raise HarnessError(f"published_recipe={recipe}: nothing was published with it; there are: {known}")
    table = table.drop(columns=[name for name in table.columns if name.startswith("accuracy")])
    for index, row in table.iterrows():
        same = scores["encoder"] == row.get("towers")
        if isinstance(row.get("system_title"), str) and row["system_title"]:
            same |= scores["system"] == row["system_title"]
        for column, value in (("llm", "llm_title"), ("resolution", "input_px"), ("visual_tokens", "visual_tokens")):
            same &= scores[column] == str(row[value])
        found = scores[same].dropna(subset=["score"])
        if found.empty:
            continue
        by_metric = {str(metric): float(score) / 100 for metric, score in found[["metric", "score"]].to_numpy()}
        for metric, score in by_metric.items():
            table.loc[index, f"published_{metric}"] = score
        five = [by_metric[name] for name in AVG5 if name in by_metric]
        mean = by_metric.get("Avg5", sum(five) / len(AVG5) if len(five) == len(AVG5) else None)
        if mean is not None:
            table.loc[index, "accuracy"] = mean
            table.loc[index, "accuracy_source"] = f"published, {recipe}: {'; '.join(sorted(set(found['source'])))}"
    return table
