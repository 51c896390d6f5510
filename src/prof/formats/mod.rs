//! Files of a snapshot, for other people's readers.
