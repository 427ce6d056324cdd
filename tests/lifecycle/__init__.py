"""The lifecycle against a reference model, under concurrent claimants, and with bugs planted in it."""
