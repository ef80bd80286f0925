"""Starts Textway's processes and keeps them running. Owns no data and no decision of the product."""
