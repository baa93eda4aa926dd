"""Tests of a running twistd, with real clients."""
