"""Carriers: who takes the SMS. One file or one data file each, listed in `registry`."""
