"""An encoder in the form of another runtime."""
