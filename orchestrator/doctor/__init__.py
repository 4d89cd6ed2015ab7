"""What `doctor` looks at: small named checks of this machine, of a site, and of a job there."""
