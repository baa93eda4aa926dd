"""Maildir."""
