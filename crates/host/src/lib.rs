//! The stand-alone host: namespaces, mounts, processes, probes, router and relay
