//! How long the kernel remembers where a redirected connection was going.

use std::io;

/// The kernel's limits, in seconds, for connections of which one direction is shut. Its defaults are 60 and 120: after so much silence the
/// redirect is forgotten, what is sent next reaches nobody, and both ends wait for ever.
const LIMITS: [&str; 2] = ["nf_conntrack_tcp_timeout_close_wait", "nf_conntrack_tcp_timeout_fin_wait"];

/// A day: longer than any proxy lets a connection be idle (an hour, by default), short of the five days of open connections.
const WANTED: u64 = 24 * 60 * 60;

/// Has the calling thread's network namespace remember half-closed connections for a day, or for longer if it does so already. To be called
/// after rules are set, since only those make the kernel track connections.
///
/// # Errors
/// If a limit cannot be read or written, with its file.
pub fn remember_half_closed() -> io::Result<()> {
    for limit in LIMITS {
        let path = format!("/proc/sys/net/netfilter/{limit}");
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        let now = std::fs::read_to_string(&path).map_err(named)?;
        if now.trim().parse::<u64>().is_ok_and(|now| now < WANTED) {
            std::fs::write(&path, WANTED.to_string()).map_err(named)?;
        }
    }
    Ok(())
}
