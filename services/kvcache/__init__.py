"""KV block bookkeeping: ids, counts and hashes, never tensors.

Files in reading order: config (sizes and lease times), block (block arithmetic, chained hash), block_pool (reference
counts, free queue), prefix_cache (hash to block), block_manager (allocate, grow, free), lease (promises with an end),
transfer_table (the hand-off as two tables), transfer_entry (one attempt, notices), transfer_links (epochs of links),
transfer_sender, transfer_receiver (the two ends), transfer (both joined: what stages call).
"""
