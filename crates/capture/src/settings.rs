//! What is to be captured, as Istio's annotations say it.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

use mizzen_types::{IpRange, ports};

/// By what the proxy's own traffic is told from that of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// By the mark on its sockets: where there is one user for everything.
    Mark(u32),
    /// By its user or its group: in a pod, where it has no capability to mark sockets.
    User {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
}

/// How inbound connections come to the proxy; outbound ones are redirected whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Their destination is rewritten (REDIRECT); the program sees the proxy as its client.
    #[default]
    Redirect,
    /// They come as they are (TPROXY), and the proxy goes on to the program from the client's own address.
    Tproxy(Tproxy),
}

/// What TPROXY needs of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tproxy {
    /// The mark of inbound packets, and of the proxy's connections to the program: these stay within the namespace. Not 0.
    pub mark: u32,
    /// The table of routes for packets with that mark: all of it leads here. None of the kernel's own.
    pub table: u32,
}

impl Default for Tproxy {
    /// Istio's mark and table.
    fn default() -> Self {
        Tproxy { mark: ports::PROXY_MARK, table: 133 }
    }
}

/// The capture of questions for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The local port that they go to, by UDP and TCP.
    pub port: u16,
    /// The servers whose port 53 is captured; `None`: all.
    pub servers: Option<Vec<IpAddr>>,
}

/// A choice of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// `*`: every port.
    All,
    /// These only; an empty list is none.
    Only(Vec<u16>),
}

/// A choice of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// `*`: every address.
    All,
    /// These only; an empty list is none.
    Only(Vec<IpRange>),
}

/// What to capture and where to. The default is Istio's: everything, except the ports of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which packets are the proxy's own.
    pub owner: Owner,
    /// How inbound connections come to the proxy.
    pub mode: Mode,
    /// Whether questions for names are captured; they are not where the agent answers on an address of its own.
    pub dns: Option<Dns>,
    /// Where captured inbound connections go.
    pub inbound_port: u16,
    /// Where captured outbound connections go.
    pub outbound_port: u16,
    /// Inbound ports to capture.
    pub include_inbound: Ports,
    /// Inbound ports to leave alone; read only where `include_inbound` is [`Ports::All`].
    pub exclude_inbound: Vec<u16>,
    /// Outbound ports to capture whatever the address, besides what `include_ranges` says.
    pub include_outbound: Vec<u16>,
    /// Outbound ports to leave alone, before everything else.
    pub exclude_outbound: Vec<u16>,
    /// Destinations to capture.
    pub include_ranges: Ranges,
    /// Destinations to leave alone, before what is included.
    pub exclude_ranges: Vec<IpRange>,
}

/// Why an annotation cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {reason}")]
pub struct SettingsError {
    /// The annotation's full name.
    pub annotation: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

const MODE: &str = "sidecar.istio.io/interceptionMode";
const INCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const EXCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const INCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const EXCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const EXCLUDE_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";

impl Default for Settings {
    fn default() -> Self {
        Settings {
            owner: Owner::Mark(ports::PROXY_MARK),
            mode: Mode::Redirect,
            dns: None,
            inbound_port: ports::INBOUND,
            outbound_port: ports::OUTBOUND,
            include_inbound: Ports::All,
            exclude_inbound: Vec::new(),
            include_outbound: Vec::new(),
            exclude_outbound: Vec::new(),
            include_ranges: Ranges::All,
            exclude_ranges: Vec::new(),
        }
    }
}

impl Settings {
    /// From a pod's annotations; names that are not about capture are passed over.
    ///
    /// Istio's meaning: an absent `include…` is `*` (for outbound ports: none beyond the ranges), an
    /// empty one captures nothing, and `excludeInboundPorts` counts only beside `*`.
    ///
    /// # Errors
    /// Names the annotation and the part of its value that is wrong.
    pub fn from_annotations<K: AsRef<str>, V: AsRef<str>>(
        annotations: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Settings, SettingsError> {
        let given: BTreeMap<String, String> = annotations
            .into_iter()
            .filter(|(key, _)| key.as_ref() == MODE || key.as_ref().starts_with("traffic.sidecar.istio.io/"))
            .map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned()))
            .collect();
        let mut settings = Settings::default();
        let get = |name: &str| given.get(name).map(|text| text.trim());
        if let Some(text) = get(MODE) {
            settings.mode = match text {
                "" | "REDIRECT" => Mode::Redirect,
                "TPROXY" => Mode::Tproxy(Tproxy::default()),
                other => {
                    let reason = format!("`{other}` is not supported: it must be REDIRECT or TPROXY");
                    return Err(SettingsError { annotation: MODE, reason });
                }
            };
        }
        if let Some(text) = get(INCLUDE_INBOUND) {
            settings.include_inbound = if text == "*" { Ports::All } else { Ports::Only(parse_ports(INCLUDE_INBOUND, text)?) };
        }
        if let Some(text) = get(EXCLUDE_INBOUND) {
            settings.exclude_inbound = parse_ports(EXCLUDE_INBOUND, text)?;
        }
        if let Some(text) = get(INCLUDE_OUTBOUND) {
            settings.include_outbound = parse_ports(INCLUDE_OUTBOUND, text)?;
        }
        if let Some(text) = get(EXCLUDE_OUTBOUND) {
            settings.exclude_outbound = parse_ports(EXCLUDE_OUTBOUND, text)?;
        }
        if let Some(text) = get(INCLUDE_RANGES) {
            settings.include_ranges = if text == "*" { Ranges::All } else { Ranges::Only(parse_ranges(INCLUDE_RANGES, text)?) };
        }
        if let Some(text) = get(EXCLUDE_RANGES) {
            settings.exclude_ranges = parse_ranges(EXCLUDE_RANGES, text)?;
        }
        Ok(settings)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn parse_ports(annotation: &'static str, text: &str) -> Result<Vec<u16>, SettingsError> {
    port_list(text).map_err(|reason| SettingsError { annotation, reason })
}

fn parse_ranges(annotation: &'static str, text: &str) -> Result<Vec<IpRange>, SettingsError> {
    range_list(text).map_err(|reason| SettingsError { annotation, reason })
}

/// Ports with commas between them; `*` is none of them.
///
/// # Errors
/// Names the item that is no port.
pub fn port_list(text: &str) -> Result<Vec<u16>, String> {
    items(text)
        .map(|item| match item.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            _ if item == "*" => Err("`*` is not possible here, only a list of ports".to_owned()),
            _ => Err(format!("`{item}` is not a port between 1 and 65535")),
        })
        .collect()
}

/// Ranges with commas between them; `*` is none of them.
///
/// # Errors
/// Names the item that is no range.
pub fn range_list(text: &str) -> Result<Vec<IpRange>, String> {
    let range = |item: &str| match item.parse::<IpRange>() {
        Err(_) if item == "*" => Err("`*` is not possible here, only a list of ranges".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    };
    items(text).map(range).collect()
}

impl FromStr for Ports {
    type Err = String;

    /// `*`, or a list.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" { Ok(Ports::All) } else { port_list(text).map(Ports::Only) }
    }
}

impl FromStr for Ranges {
    type Err = String;

    /// `*`, or a list.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" { Ok(Ranges::All) } else { range_list(text).map(Ranges::Only) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(annotations: &[(&str, &str)], want: Result<Settings, &str>) {
        let got = Settings::from_annotations(annotations.iter().copied());
        assert_eq!(got.map_err(|error| error.to_string()), want.map_err(str::to_owned), "{annotations:?}");
    }

    #[test]
    fn annotations() {
        check(&[], Ok(Settings::default()));
        check(&[("app", "x"), ("sidecar.istio.io/inject", "true")], Ok(Settings::default()));
        check(
            &[(INCLUDE_INBOUND, "80, 8080"), (EXCLUDE_OUTBOUND, "3306,")],
            Ok(Settings { include_inbound: Ports::Only(vec![80, 8080]), exclude_outbound: vec![3306], ..Settings::default() }),
        );
        check(
            &[(INCLUDE_INBOUND, ""), (INCLUDE_RANGES, "")],
            Ok(Settings { include_inbound: Ports::Only(vec![]), include_ranges: Ranges::Only(vec![]), ..Settings::default() }),
        );
        check(
            &[(INCLUDE_RANGES, "*"), (EXCLUDE_RANGES, "10.1.0.0/16,192.0.2.1"), (INCLUDE_OUTBOUND, "443")],
            Ok(Settings {
                exclude_ranges: vec!["10.1.0.0/16".parse().unwrap(), "192.0.2.1/32".parse().unwrap()],
                include_outbound: vec![443],
                ..Settings::default()
            }),
        );
        check(&[(MODE, "REDIRECT")], Ok(Settings::default()));
        check(&[(MODE, "TPROXY")], Ok(Settings { mode: Mode::Tproxy(Tproxy { mark: 1337, table: 133 }), ..Settings::default() }));
        check(
            &[(MODE, "NONE")],
            Err("annotation sidecar.istio.io/interceptionMode: `NONE` is not supported: it must be REDIRECT or TPROXY"),
        );
        check(
            &[(EXCLUDE_INBOUND, "80,http")],
            Err("annotation traffic.sidecar.istio.io/excludeInboundPorts: `http` is not a port between 1 and 65535"),
        );
        check(
            &[(EXCLUDE_OUTBOUND, "70000")],
            Err("annotation traffic.sidecar.istio.io/excludeOutboundPorts: `70000` is not a port between 1 and 65535"),
        );
        check(
            &[(EXCLUDE_INBOUND, "*")],
            Err("annotation traffic.sidecar.istio.io/excludeInboundPorts: `*` is not possible here, only a list of ports"),
        );
        check(
            &[(EXCLUDE_RANGES, "10.0.0.0/33")],
            Err(
                "annotation traffic.sidecar.istio.io/excludeOutboundIPRanges: `10.0.0.0/33` is neither an IP address nor a CIDR block such as 10.0.0.0/8",
            ),
        );
    }
}
