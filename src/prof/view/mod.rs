//! Tables of a snapshot.
