"""Integrations: owns tenants, keys, connected systems, addresses and webhooks; never sees a payload or a message."""
