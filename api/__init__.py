"""The HTTP api: studies for people, the protocol for workers."""
