//! The in-memory key-value state machine. Skeleton.
