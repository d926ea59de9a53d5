"""The scenario that `dataplane demo` runs."""
