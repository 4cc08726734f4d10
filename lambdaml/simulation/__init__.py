"""The real protocol, simulated: the virtual world put to use."""
