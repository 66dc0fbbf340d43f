"""The whole way once, in a world whose truth is known: voltages in, scored narrations out."""
