"""The shell of a worker process: performs its core's actions with Ray, torch and torch.distributed.

Files in reading order: config (what a worker is started with), host (where this host is reached), assemble (spec to
state machine; pure), step_thread (runs torch), links (runs KV links), peers (control messages), peer_server and
peer_calls (the sockets they go by, and front doors come to), rank_answers (what several ranks say as one event; pure),
rank_links (links of all ranks as one), subscriptions (streams to front doors, and their calls), core_ledger and
lent_cores (cores of idle workers for decode steps), faults (test hooks), performer (events in, actions performed),
usage (threads and sockets), link_probe (measures the way to another worker), rank_process (ranks beyond the first),
process (all parts wired), actor (the Ray actor class), rank_actor (that of the other ranks).
"""
