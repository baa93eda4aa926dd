"""Tests of"""
