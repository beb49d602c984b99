//! xDS resources compiled to the runtime configuration, and pure steps over it
