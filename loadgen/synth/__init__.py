"""Traces that are made, not read: `loadgen synth`.

Files in reading order: lengths (how long prompts and outputs are), servegen (ServeGen's models of clients), burstgpt
(rows with the shape of BurstGPT), templates (questions with slots, in two halves), category_prompts (questions, their
paraphrases and their traps, by category), app (the command). Fitted constants and templates are in ../samples.
"""
