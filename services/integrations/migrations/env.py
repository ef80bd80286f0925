"""Runs the schema steps of Integrations."""

from servicekit.migrations import run_environment

run_environment()
