//! Whether a pod's connections are captured, seen from within by somebody who may not look at the rules: the proxy's user.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mizzen_capture::Settings;
use mizzen_types::ports;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// What the proxy's user opens over the loopback interface to another address than 127.0.0.1 is sent to the inbound port, whatever the settings say. It
/// is an address of this machine at which nobody listens.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Istio's port for such a probe; the first that is tried.
const PROBE: u16 = 15002;
/// How long a connection within one machine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a connection that the capture sends elsewhere, and looks whether it arrives there. Rules are set all at once, so that one tells of all.
///
/// # Errors
/// Why it did not arrive.
pub(super) async fn captured(settings: &Settings) -> Result<(), String> {
    let others = [ports::HBONE, settings.inbound_port, settings.outbound_port];
    let is_left_alone = |port: &u16| settings.exclude_outbound.contains(port) || others.contains(port);
    let probe = (PROBE..=u16::MAX).chain(1..PROBE).find(|port| !is_left_alone(port)).ok_or("all ports are left alone")?;
    let probe = SocketAddr::from((NOBODY, probe));
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, settings.inbound_port)).await {
        Ok(listener) => Some(listener),
        // The proxy runs already: it is enough that somebody answers where nobody listens.
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => return Err(format!("cannot listen on port {}: {error}", settings.inbound_port)),
    };
    let refused = |why: String| format!("a connection to {probe} is not redirected to port {}: {why}", settings.inbound_port);
    let late = |_| refused(format!("nothing has happened for {PATIENCE:?}"));
    let stream = timeout(PATIENCE, TcpStream::connect(probe)).await.map_err(late)?.map_err(|error| refused(error.to_string()))?;
    let Some(listener) = listener else { return Ok(()) };
    let own = stream.local_addr().map_err(|error| error.to_string())?;
    let (_, from) = timeout(PATIENCE, listener.accept()).await.map_err(late)?.map_err(|error| refused(error.to_string()))?;
    if from == own { Ok(()) } else { Err(refused(format!("what arrives there comes from {from}, not from {own}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without any rules, and on a port that is free.
    #[tokio::test]
    async fn nothing_is_captured() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let settings = Settings { inbound_port: free, exclude_outbound: vec![PROBE], ..Settings::default() };
        let why = captured(&settings).await.unwrap_err();
        assert!(why.starts_with(&format!("a connection to 127.0.0.9:15003 is not redirected to port {free}: ")), "{why}");
    }
}
