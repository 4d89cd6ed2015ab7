"""How collection and learning share the hardware: one module a pipeline, each a role's entry point."""
