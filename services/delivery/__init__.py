"""Delivery owns messages, attempts, receipts and replies: it hands messages to carriers and tells what became of them.

It never sees a payload, never maps, and never decides who may ask: Integrations tells it.
"""
