"""One launch, from the checks before it to its last machine: what is decided is pure, `launch` carries it out."""
