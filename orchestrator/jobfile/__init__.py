"""A job file's text: YAML with places, keys, values and what to say when one is wrong."""
