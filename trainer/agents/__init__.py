"""Agents: a world model, a behaviour learnt inside it, and the losses of both."""
