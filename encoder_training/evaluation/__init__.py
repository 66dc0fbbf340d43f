"""What an encoder is worth, beside decoders that need no network."""
