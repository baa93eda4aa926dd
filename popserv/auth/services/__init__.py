"""Checkers that ask the operating system or a program whether a password is right.

This package may import the package users, the modules that users may import, and the packages that
auth may import.
"""
