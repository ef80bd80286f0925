"""Ingress: raw payload in, verified and mapped message out.

Owns: the meaning of a payload (signature, strict JSON, mapping, dry run). It has no table.
Never: changes an integration, stores a message, talks to a carrier, or keeps a payload after its answer.
"""
