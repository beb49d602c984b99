//! One pure function per xDS resource
