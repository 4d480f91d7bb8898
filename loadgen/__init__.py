"""Replays real workloads against a server and judges it; the `loadgen` command.

Files in reading order: formats (one record of a trace), session_files (traces of whole sessions), traces (opens any of
them), survey (what a trace is like), inspection (a survey as tables and JSON), arrivals (when requests come), prompts
(what they carry), schedule (what is to be sent, and when), plan (from rows to a schedule), forecast (what a plan will
send), pacer (which request is due), reading (what a client reads of a stream), targets (gRPC, OpenAI over HTTP, the
simulator's port), replay (one sending process), app (a whole run: processes, folder of results), judge (from samples
to the report), compare (tables of one report, and of several side by side), plots (what is drawn of them), page (HTML
with both), search (the highest rate that attains the SLO), options (of the command line), launch (from options to a
run), synth (traces that are made), __main__ (commands). Excerpts of public traces are in samples.
"""
