"""The `triptych` command.

Files in reading order: __main__ (commands), options (what several share), settings (YAML and --set), output (what
commands print), up, down, client (gRPC), watch (options of those that look), status, top, top_view, trace_view, view
(what placement rests on), cache, operate (drain and scale), chat, replay, measure (profile), measure_door (what a
running cluster adds to it), calibrate (until its simulation tells what clients saw), simulate, plan, plan_page,
compiled (their simulator as machine code), keys; doctor (runs the checks), findings (every fault it knows), checks
(what a check is given and answers), check_host, check_engine, check_cluster.
"""
