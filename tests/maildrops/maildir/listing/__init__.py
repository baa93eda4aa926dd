"""Tests of """
