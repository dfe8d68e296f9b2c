"""Runs on a Ray cluster: bring it up, submit, watch, fetch, take down."""
