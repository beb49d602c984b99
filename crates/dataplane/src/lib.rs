//! Drives the engine: sockets, workers, DNS, certificates, admin and the xDS client.
//!
//! The [`driver`] gives each worker of the engine a thread with its sockets. (Being written: `driver/` is complete and has an owner; the rest of
//! the crate — xDS client, warming, DNS, metrics, admin — goes into modules beside it and talks to workers only by [`driver::Pool`].)

pub mod driver;
