"""A package with a version, for functions that name it."""

__version__ = "2.7.18"
VALUE = 7
