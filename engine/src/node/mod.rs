//! A node's data directory: identity, boot counter, placement of groups on cores, what is remembered of peers. Skeleton.
