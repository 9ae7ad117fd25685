"""Load on a server from several processes of its own, and what was measured of it; prints nothing.

`spec` says what to send, `arrivals` when, `drive` sends it and counts, `senders` know gRPC, `process` is one client
process, `together` starts them all, `report` puts what they counted together, and `plot` draws it.
"""
