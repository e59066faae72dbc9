"""Grids as back ends of other libraries, which are imported when somebody asks for one: here stands no import of theirs."""

from __future__ import annotations


def register_joblib() -> None:
    """Makes `backend="gridworker"` known to joblib, with `grid` and `pool` as its options. ModuleNotFoundError without joblib."""
    try:
        from .joblib_backend import register
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "joblib":
            raise
        message = "register_joblib() needs joblib, which is not installed here: pip install joblib"
        raise ModuleNotFoundError(message, name="joblib") from None
    register()
