"""Where windows come from: synthetic ones, BUT PPG, VitalDB, and recordings of any device."""


class UnusableError(Exception):
    """What was recorded is intact but cannot become windows; the message says why."""
