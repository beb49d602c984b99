//! The xDS protocol, both ends, without IO
