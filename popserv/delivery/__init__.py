"""Delivery of new mail to stores that provide IFinalDelivery: LMTP, and what else uses it."""
