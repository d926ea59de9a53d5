"""The files that a sweep leaves in its folder, and the columns of its results."""

#: A folder with a file for each finished cell; a table of all; the sweep as used, defaults filled in.
CELLS = "cells"
RESULTS = "results.csv"
CONFIGURATION = "configuration.yaml"

#: Columns of the results after the settings, each a whole number (int) or not.
FIGURES: dict[str, type] = {
    "first_failure_seconds": float,
    "lowest_availability_percent": float,
    "failures": int,
    "sessions_created": int,
    "failure_share": float,
    "alert_fired_seconds": float,
    "alert_seconds_before_first_failure": float,
}
