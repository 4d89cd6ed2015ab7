"""Hosts that are reached over SSH: the connection, submissions that survive it, files both ways."""
