"""Tests of who may log in."""
