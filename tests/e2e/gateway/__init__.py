"""The gateway: real Envoy before stub services."""
