"""The figures as Markdown, and as rows for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from butppg_lightning.console import print_table

_FEW = 12  # subjects up to which each has a column of its own
_COMPARISON = ("subjects", "p", "verdict")
_SECONDARY = {
    "AUPRC": ("auprc", "{:.3f}"),
    "balanced accuracy": ("balanced_accuracy", "{:.1f} %"),
    "macro F1": ("macro_f1", "{:.3f}"),
    "MCC": ("mcc", "{:.3f}"),
    "Brier": ("brier", "{:.3f}"),
    "log loss": ("loss", "{:.3f}"),
    "slope": ("calibration_slope", "{:.2f}"),
    "intercept": ("calibration_intercept", "{:+.2f}"),
    "ECE": ("ece", "{:.3f}"),
    "ECE, debiased": ("ece_debiased", "{:.3f}"),
    "ECE if perfectly calibrated": ("ece_if_calibrated", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1f} %"),
    "majority": ("majority_accuracy", "{:.1f} %"),
}
ABLATION_COLUMNS = (
    "variant", "about", "within-subject AUROC", "pooled AUROC", "this less recommended", *_COMPARISON,
)  # fmt: skip
Rows = list[list[str]]


def shown(value: float | None, pattern: str = "{:.3f}") -> str:
    """Return a number in words; a dash where it is undefined."""
    return "-" if value is None else pattern.format(value)


def with_spread(value: float | None, spread: float | None) -> str:
    """Return a mean and its standard deviation over seeds."""
    return shown(value) + ("" if spread is None else f" ± {spread:.3f}")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left-aligned and the others right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


def print_primary(content: dict[str, Any]) -> None:
    """Print the main table, the comparison apart from the figures: together they are wider than a terminal."""
    columns, rows = primary_columns(content), primary_rows(content, "methods")
    print_table("AUROC on unseen people", columns[:-4], [row[:-4] for row in rows])
    comparison = [[row[0], *row[-4:]] for row in rows[1:]]
    print_table("How the recommended recipe compares", ("method", *columns[-4:]), comparison)
    if content["external"] is not None:
        print_table("AUROC on BUT PPG v1, never trained on", ("method", "AUROC"), _external_rows(content["external"]))


def primary_columns(content: dict[str, Any]) -> list[str]:
    """Return the headings of :func:`primary_rows`; the last four are the comparison."""
    subjects = list(content["protocol"]["subjects"])
    own = subjects if len(subjects) <= _FEW else ["lowest", "median", "highest"]
    return ["method", "within-subject AUROC", *own, "pooled AUROC", "recommended less this", *_COMPARISON]


def primary_rows(content: dict[str, Any], table: str) -> Rows:
    """Return one row per method of a table: AUROC within subjects and pooled, and how it compares."""
    return [
        [
            found["title"],
            with_spread(found["within_mean"], found["within_sd"]),
            *_per_subject(found["within"]),
            with_spread(found["pooled_auroc"], found["pooled_sd"]),
            *_comparison(found["reference_less_this"]),
        ]
        for found in _of_table(content, table)
    ]


def secondary_rows(content: dict[str, Any], table: str) -> Rows:
    """Return one row per method of a table: the secondary figures; dashes where it could not be calibrated."""
    return [
        [found["title"], *(shown(found[key], pattern) for key, pattern in _SECONDARY.values())]
        for found in _of_table(content, table)
    ]


def ablation_rows(content: dict[str, Any]) -> Rows:
    """Return one row per variant, by its group."""
    return [
        [
            found["title"],
            found["group"],
            with_spread(found["within_mean"], found["within_sd"]),
            with_spread(found["pooled_auroc"], found["pooled_sd"]),
            *_comparison(found["this_less_reference"]),
        ]
        for found in content["rows"].values()
    ]


def results_page(content: dict[str, Any]) -> str:
    """Return results.md."""
    parts = [
        "# Results\n",
        _protocol(content["protocol"]),
        "## Unseen people\n",
        markdown(primary_columns(content), primary_rows(content, "methods")),
        "\n## Secondary figures\n",
        markdown(["method", *_SECONDARY], secondary_rows(content, "methods")),
        *(
            f"\n{found['title']}: not calibrated, {found['not_calibrated']}."
            for found in _of_table(content, "methods")
            if found.get("not_calibrated")
        ),
        *(f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in content.get("pictures", ())),
    ]
    if any(found["table"] == "channels" for found in content["methods"].values()):
        parts += ["\n## Channels\n", markdown(primary_columns(content), primary_rows(content, "channels"))]
    if content["external"] is not None:
        parts += ["\n## Other people's records\n", _external(content["external"])]
    return "\n".join([*parts, "\n## Cost\n", _costs(content["costs"])]) + "\n"


def ablation_page(content: dict[str, Any]) -> str:
    """Return ablation.md."""
    about = "Each row changes what its name says of the recommended recipe, which is the first row.\n"
    table = markdown(ABLATION_COLUMNS, ablation_rows(content))
    protocol, costs = _protocol(content["protocol"]), _costs(content["costs"])
    return "\n".join(["# Ablation\n", protocol, about, table, "\n## Cost\n", costs, ""])


def _of_table(content: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """Return the methods of a table, and the reference, which is in all of them."""
    methods = content["methods"]
    return [found for name, found in methods.items() if found["table"] == table or name == content["reference"]]


def _protocol(found: dict[str, Any]) -> str:
    count, good = found["windows"]["count"], found["windows"]["good"]
    single = all(len(fold) == 1 for fold in found["folds"])
    how = "one subject held out at a time" if single else f"{len(found['folds'])} folds, parted by subject"
    several = f"{found['seeds']} seeds, over which figures are means (± their spread)"
    seeds = "one seed" if found["seeds"] == 1 else several
    return (
        f"{count} windows ({good} good) of {len(found['subjects'])} subjects; {how}; {seeds}. Fixed numbers of epochs: "
        "nothing is selected or stopped on held-out people. Continued self-supervision sees "
        f"{found['self_supervision']} of the training subjects only. "
        "Temperature, bias and threshold of each fold are fitted on the out-of-fold predictions for the other folds. "
        "Two methods are compared by their per-subject differences: `subjects` says how many are above 0, `p` is of "
        "the sign-flip test (among six subjects never below 0.031); `better` takes five of six subjects and a "
        "mean above 0, `worse` the reverse, anything else is `not shown`.\n"
    )


def _external(found: dict[str, Any]) -> str:
    return (
        f"{found['windows']} genuine BUT PPG v1 records ({found['good']} good) of {found['subjects']} people, scored "
        "by methods trained on all of the people above and on none of these. Labels are of another kind there "
        "(agreement of heart rates), and poor records are nearly those in motion: no claim beyond that.\n\n"
        + markdown(["method", "AUROC"], _external_rows(found))
    )


def _external_rows(found: dict[str, Any]) -> Rows:
    return [[row["title"], with_spread(row["auroc"], row["auroc_sd"])] for row in found["methods"].values()]


def _costs(found: dict[str, Any]) -> str:
    other = found["by_other_code"]
    note = f" {other} of them were made by another state of the package's code." if other else ""
    return (
        f"{found['jobs']} fits and baselines took {found['seconds_in_all'] / 60:.1f} processor minutes, the longest "
        f"{found['seconds_of_the_longest']:.0f} s.{note}"
    )


def _per_subject(within: dict[str, float | None]) -> list[str]:
    values = list(within.values())
    if len(values) > _FEW:
        known = sorted(value for value in values if value is not None)
        values = [known[0], known[len(known) // 2], known[-1]] if known else [None] * 3
    return [shown(value, "{:.2f}") for value in values]


def _comparison(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [""] * 4
    above = f"{found['above']} of {found['subjects']}"
    return [f"{found['mean']:+.3f}", above, f"{found['p_value']:.3f}", found["verdict"]]
