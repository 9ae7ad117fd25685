"""The process that owns one device, its models and the plugins; nothing here is imported by callers of whylight."""
