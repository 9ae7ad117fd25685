"""What operators see of a server at work: metrics, traces and logs; decides nothing, and nothing waits for it."""
