//! Beside every proxy: identity, SDS, the xDS relay and DNS
