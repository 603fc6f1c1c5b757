"""Writing a mapped dataset as sharded Parquet: each shard as a whole or not at all, and going on after a kill.

`preprocess` is the whole of it on one machine. Its parts are for engines that distribute the work: `open_run` checks
the output and says which shards are missing, and `ShardWriter.write` makes a finished file of the rows of one.
"""
