"""An SMSC over SMPP 3.4 as a carrier: `carrier` is what Delivery sees, `link` what an installation says of it."""
