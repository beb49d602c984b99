//! The mesh Snapshot, its indexes and the recording Reader
