//! Threads of a store: region workers, the log writer, apply workers and the background pool.
