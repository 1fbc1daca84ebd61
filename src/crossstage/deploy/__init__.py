"""Models as files of other programs, run by the fastest means that a machine has."""
