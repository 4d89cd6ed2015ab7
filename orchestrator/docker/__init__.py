"""Docker: the engine, images, containers of runs, and a shell in one."""
