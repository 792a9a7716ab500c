"""Leaving a run that is to go on later."""

EXIT_REQUEUE = 75
"""Exit code of a run that saved and left because it was told to: EX_TEMPFAIL of sysexits.h, try again."""


class Preempted(SystemExit):
    """The run was told to stop, has saved, and can go on later."""
