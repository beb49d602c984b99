//! The data path as a state machine without IO
