//! Drives the engine: sockets, workers, DNS, certificates, admin and the xDS client
