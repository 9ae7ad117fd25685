"""The gRPC face of the server: servicers, checks, errors, health, reflection; imports neither torch nor plugin code."""
