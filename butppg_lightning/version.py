"""The package's version, alone in a file: whoever needs it imports nothing else."""

__version__ = "0.1.0"
