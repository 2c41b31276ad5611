"""The names by which signals go in the files of monitors, wearables and data bases."""

from __future__ import annotations

TIME = "TIME"
"""Stands for a table's time column."""

_LEADS = "i iii avr avl avf v v1 v2 v3 v4 v5 v6"
_AXIS = "accel{0} acceleration{0} accelerometer{0} wristacc{0} a{0} accaxis{0} accelaxis{0} accelerationaxis{0}"
_AXIS += " accelerometeraxis{0} {0}acc {0}accel {0}acceleration {0}axis {0}axisacceleration"

_RANKED = {
    # colours and numbers come last: which of several is right is the user's choice
    "PPG": (
        "ppg",
        "pleth plethysmogram photoplethysmogram photoplethysmograph photoplethysmography bvp"
        " ppgraw rawppg ppgsignal ppgvalue snuadcpleth spo2pleth plethspo2",
        "ppgred ppgr red ppggreen ppgg green ppgblue ppgb ppgir ppginfrared ir infrared ppg0 ppg1 ppg2 ppg3",
    ),
    # lead II before the others: it is the one encoders are pretrained on
    "ECG": (
        "ecg ekg",
        "ii leadii ecgii ekgii ecgleadii mlii snuadcecgii",
        "ecgraw rawecg ecgsignal ecgvalue",
        f"ecg0 ecg1 ecg2 ecg3 ekg1 ekg2 {_LEADS} mcl1 "
        + " ".join(f"{word}{lead}" for word in ("ecg", "lead", "ecglead") for lead in _LEADS.split()),
    ),
    **{f"ACC_{axis.upper()}": (f"acc{axis}", _AXIS.format(axis), axis) for axis in "xyz"},
    TIME: (
        "time timestamp datetime t",
        "times timesec timeseconds timems timeus timens timestamps timestampms timestampus timestampns ts tms"
        " elapsedtime elapsed seconds sec ms millis milliseconds unixtime unixtimestamp unix epoch epochms utc"
        " localtime date dateandtime",
    ),
}

ALIASES = {channel: tuple(tuple(names.split()) for names in ranks) for channel, ranks in _RANKED.items()}
"""Names by channel in ranks, the best rank first: letters and digits only, lower case. A channel takes the first rank
that a file has a name of; two names of that rank are ambiguous."""
