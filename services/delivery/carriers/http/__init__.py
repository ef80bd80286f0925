"""Any HTTP API as a carrier: `carrier` is what Delivery sees, `definition` is the YAML file that tells how it works."""
