"""steve, which documents three commands: what is typed (`commands`), the container (`steps`), and when (`backend`)."""
