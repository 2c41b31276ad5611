"""The figures as Markdown, and as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from butppg_lightning.console import print_table

Found = dict[str, Any]
Columns = dict[str, Callable[[Found], str]]
"""Heading to what stands in a method's cell."""
_FEW = 12  # subjects up to which each has a column of its own


def _number(key: str, pattern: str = "{:.3f}") -> Callable[[Found], str]:
    return lambda found: "-" if found.get(key) is None else pattern.format(found[key])


def _mean(key: str, spread: str) -> Callable[[Found], str]:
    return lambda found: _number(key)(found) + ("" if found[spread] is None else f" ± {found[spread]:.3f}")


def _within(name: str) -> Callable[[Found], str]:
    return lambda found: _number(name, "{:.2f}")(found["within"])


def _quantile(share: float) -> Callable[[Found], str]:
    def cell(found: Found) -> str:
        known = sorted(value for value in found["within"].values() if value is not None)
        return f"{known[int(share * (len(known) - 1))]:.2f}" if known else "-"

    return cell


def _comparison(title: str, key: str) -> Columns:
    patterns = {
        title: "{mean:+.3f}",
        "subjects": "{above} of {subjects}",
        "by 0.015": "{clearly}",
        "p": "{p_value:.3f}",
        "verdict": "{verdict}",
    }

    return {heading: _inner(key, pattern) for heading, pattern in patterns.items()}


def _inner(key: str, pattern: str) -> Callable[[Found], str]:
    return lambda found: "" if found[key] is None else pattern.format(**found[key])


def _title(found: Found) -> str:
    return str(found["title"])


_WITHIN: Columns = {"within-subject AUROC": _mean("within_mean", "within_sd")}
_POOLED: Columns = {"pooled AUROC": _mean("pooled_auroc", "pooled_sd")}
_COMPARED = _comparison("recommended less this", "reference_less_this")
_EXTERNAL: Columns = {"method": _title, "AUROC": _mean("auroc", "auroc_sd")}
_ABLATION: Columns = {
    "variant": _title,
    "about": lambda found: str(found["group"]),
    **_WITHIN,
    **_POOLED,
    **_comparison("this less recommended", "this_less_reference"),
}
_SECONDARY: Columns = {
    "method": _title,
    "AUPRC": _number("auprc"),
    "balanced accuracy": _number("balanced_accuracy", "{:.1f} %"),
    "macro F1": _number("macro_f1"),
    "MCC": _number("mcc"),
    "Brier": _number("brier"),
    "log loss": _number("loss"),
    "slope": _number("calibration_slope", "{:.2f}"),
    "intercept": _number("calibration_intercept", "{:+.2f}"),
    "ECE": _number("ece"),
    "ECE, debiased": _number("ece_debiased"),
    "ECE if perfectly calibrated": _number("ece_if_calibrated"),
    "accuracy": _number("accuracy", "{:.1f} %"),
    "majority": _number("majority_accuracy", "{:.1f} %"),
}

_CONDITIONS: Columns = {
    "method": _title,
    "condition": lambda found: str(found["condition"]),
    **_WITHIN,
    "change": _inner("change", "{mean:+.3f}"),
    "largest loss of a subject": _number("largest_loss", "{:+.3f}"),
    **_POOLED,
    "change of pooled": _number("pooled_change", "{:+.3f}"),
}
_QUESTIONS: Columns = {
    "question": _title,
    "trained on": lambda found: f"{found['people']} people",
    "this": _number("this"),
    "than": _number("than"),
    "difference": _inner("difference", "{mean:+.3f}"),
    "subjects above": _inner("difference", "{above} of {subjects}"),
    "by 0.015": _inner("difference", "{clearly}"),
    "p": _inner("difference", "{p_value:.4f}"),
    "": lambda found: "shown" if found["shown"] else "not shown",
}


def _of_rhythm(key: str, pattern: str) -> Callable[[Found], str]:
    return lambda found: pattern.format(**found[key])


_LESS = "{difference:+.1%} [{ci95[0]:+.1%}, {ci95[1]:+.1%}]"
_RHYTHM: Columns = {
    "method": _title,
    "SR": _of_rhythm("own", "{raw[SR]:.1%}"),
    "AF": _of_rhythm("own", "{raw[AF]:.1%}"),
    "SR, equal quality": _of_rhythm("own", "{matched[SR]:.1%}"),
    "AF, equal quality": _of_rhythm("own", "{matched[AF]:.1%}"),
    "AF less SR": _of_rhythm("own", _LESS),
    "AF, equal quality, where 10 % of SR are poor": _of_rhythm("tenth", "{matched[AF]:.1%}"),
    "AF less SR there": _of_rhythm("tenth", _LESS),
}


def _primary(content: Found) -> Columns:
    subjects = list(content["protocol"]["subjects"])
    own = {name: _within(name) for name in subjects}
    if len(subjects) > _FEW:
        own = {"lowest": _quantile(0), "median": _quantile(0.5), "highest": _quantile(1)}
    return {"method": _title, **_WITHIN, **own, **_POOLED}


def _of_table(content: Found, table: str) -> list[Found]:
    """Return the methods of a table, and the reference, which is in all of them."""
    methods = content["methods"]
    return [found for name, found in methods.items() if found["table"] == table or name == content["reference"]]


def markdown(columns: Columns, methods: Iterable[Found]) -> str:
    """Return a Markdown table of methods, the first column left-aligned and the others right."""
    rows = [[cell(found) for cell in columns.values()] for found in methods]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ([*columns], rule, *rows))


def print_results(content: Found) -> None:
    """Print the main table, the comparison apart from the figures: together they are wider than a terminal."""
    methods = _of_table(content, "methods")
    _print("AUROC on unseen people", _primary(content), methods)
    _print("How the recommended recipe compares", {"method": _title, **_COMPARED}, methods)
    if content["external"]:
        _print("AUROC on BUT PPG v1, never trained on", _EXTERNAL, content["external"]["methods"].values())


def print_ablation(content: Found) -> None:
    """Print the table of an ablation."""
    _print("Ablation, on unseen people", _ABLATION, content["rows"].values())


def _print(title: str, columns: Columns, methods: Iterable[Found]) -> None:
    print_table(title, [*columns], [[cell(found) for cell in columns.values()] for found in methods])


def results_page(content: Found) -> str:
    """Return results.md."""
    methods, columns = _of_table(content, "methods"), {**_primary(content), **_COMPARED}
    parts = ["# Results\n", _protocol(content["protocol"]), "## Unseen people\n", markdown(columns, methods)]
    parts += ["\n## Secondary figures\n", markdown(_SECONDARY, methods)]
    for found in methods:
        if found.get("not_calibrated"):
            parts.append(f"\n{found['title']}: not calibrated, {found['not_calibrated']}.")
    parts += [f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in content["pictures"]]
    channels = _of_table(content, "channels")
    if any(found["table"] == "channels" for found in channels):
        parts += ["\n## Channels\n", markdown(columns, channels)]
    if found := content["external"]:
        parts += [
            "\n## Other people's records\n",
            f"{found['windows']} genuine BUT PPG v1 records ({found['good']} good) of {found['subjects']} people, "
            "scored by methods trained on all of the people above and on none of these. Labels are of another kind "
            "there (agreement of heart rates), and poor records are nearly those in motion: no claim beyond that.\n",
            markdown(_EXTERNAL, found["methods"].values()),
        ]
    return "\n".join([*parts, *_sections(content), _costs(content["costs"])])


def _sections(content: Found) -> list[str]:
    """Return what is asked besides the main comparison, as far as it was."""
    parts = []
    for found in content["methods"].values():
        if found["chosen"]:
            parts.append(f"\n{found['title']} took, fold by fold: {', '.join(found['chosen'])}.")
    if content["questions"]:
        parts += ["\n## Questions\n", markdown(_QUESTIONS, content["questions"])]
    if curve := content["curve"]:
        columns: Columns = {"method": _title}
        for people in next(iter(curve.values()))["points"]:
            columns[f"{people} people"] = _point(people)
        about = "Within-subject AUROC after training on so few of each fold's people (mean ± spread over the draws).\n"
        parts += ["\n## Learning curve\n", about, markdown(columns, curve.values())]
    if content["conditions"]:
        parts += ["\n## Other devices\n", "Nothing is trained anew: only the held-out windows are changed.\n"]
        parts.append(markdown(_CONDITIONS, content["conditions"]))
    return [*parts, *_rhythm(content["rhythm"])]


def _point(people: str) -> Callable[[Found], str]:
    cell = _mean("within_mean", "within_sd")
    return lambda found: cell(found["points"][people])


def _rhythm(found: Found | None) -> list[str]:
    if found is None:
        return []
    (normal, people), (irregular, others) = found["counts"]["SR"], found["counts"]["AF"]
    about = (
        f"Windows called poor of {people} people in sinus rhythm ({normal} windows) and {others} in atrial "
        f"fibrillation ({irregular}), by models trained on all of the people above (seed 0), from the PPG alone. Equal "
        "quality: in ten bins of the share of the PPG's power at 0.5-8 Hz in that at 0.5-40 Hz (medians "
        f"{found['quality']['SR']:.4f} and {found['quality']['AF']:.4f}), weighted alike for both. Intervals (95 %) "
        "resample people. First at the threshold of the largest balanced accuracy among held-out people, then at "
        "that which calls a tenth of the SR windows poor.\n"
    )
    seen = [each["title"] for each in found["methods"].values() if each["seen"]]
    note = [f"\nTheir encoder was pretrained on these people too, without rhythms: {', '.join(seen)}."] if seen else []
    return ["\n## Atrial fibrillation\n", about, markdown(_RHYTHM, found["methods"].values()), *note]


def ablation_page(content: Found) -> str:
    """Return ablation.md."""
    about = "Each row changes what its name says of the recommended recipe, which is the first row.\n"
    table = markdown(_ABLATION, content["rows"].values())
    return "\n".join(["# Ablation\n", _protocol(content["protocol"]), about, table, _costs(content["costs"])])


def _protocol(found: Found) -> str:
    count, good = found["windows"]["count"], found["windows"]["good"]
    single = all(len(fold) == 1 for fold in found["folds"])
    how = "one subject held out at a time" if single else f"{len(found['folds'])} folds, parted by subject"
    several = f"{found['seeds']} seeds, over which figures are means (± their spread)"
    return (
        f"{count} windows ({good} good) of {len(found['subjects'])} subjects; {how}; "
        f"{'one seed' if found['seeds'] == 1 else several}. Fixed numbers of epochs: "
        "nothing is selected or stopped on held-out people. Continued self-supervision sees "
        f"{found['self_supervision']} of the training subjects only. "
        "Temperature, bias and threshold of each fold are fitted on the out-of-fold predictions for the other folds. "
        "Two methods are compared by their per-subject differences: `subjects` says how many are above 0, `p` is of "
        "the sign-flip test (all flips up to 32 subjects, then 100,000 random ones of a fixed seed; among six subjects "
        "never below 0.031), `by 0.015` how many are at least that much above; `better` takes five of six subjects and "
        "a mean above 0, `worse` the reverse, anything else is `not shown`.\n"
    )


def _costs(found: Found) -> str:
    other = found["by_other_code"]
    note = f" {other} of them were made by another state of the package's code." if other else ""
    return (
        f"\n## Cost\n\n{found['jobs']} fits and baselines took {found['seconds_in_all'] / 60:.1f} processor minutes, "
        f"the longest {found['seconds_of_the_longest']:.0f} s.{note}\n"
    )
