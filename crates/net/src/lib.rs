//! Sockets, original destinations, marks and TLS streams for control traffic
