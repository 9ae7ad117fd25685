"""The Open Inference Protocol, version 2, as another way into the same server; knows no torch and no engine."""
