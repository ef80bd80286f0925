"""Integrations: owns tenants, API keys, connected systems and their addresses; never sees a payload or a message."""
