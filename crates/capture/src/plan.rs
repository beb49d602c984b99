//! The rules, as data.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mizzen_types::{IpRange, ports};

use crate::settings::{Ports, Ranges, Settings};

/// The ports of the proxy and its agent: never captured inbound where everything else is.
const OWN_INBOUND: [u16; 4] = [ports::HBONE, ports::METRICS, ports::READINESS, ports::AGENT];

/// What a rule looks at. All parts of a rule must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet carries this mark.
    Mark(u32),
    /// The packet does not carry this mark.
    NotMark(u32),
    /// The packet leaves through the loopback interface.
    OutLoopback,
    /// TCP, whatever the port.
    Tcp,
    /// TCP to this port.
    Port(u16),
    /// TCP to any other port.
    NotPort(u16),
    /// The source lies in this range.
    Source(IpRange),
    /// The destination lies in this range.
    Destination(IpRange),
    /// The destination lies outside this range, in the same address family.
    NotDestination(IpRange),
}

/// What becomes of a connection that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it alone.
    Return,
    /// To this local port; the original destination stays readable from the socket.
    Redirect(u16),
}

/// One rule: the first that matches a connection decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these must hold.
    pub matches: Vec<Match>,
    /// Then this.
    pub verdict: Verdict,
}

/// Two chains of rules. `Display` writes them as `nft -f` reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For connections that arrive from outside the namespace (hook prerouting).
    pub inbound: Vec<Rule>,
    /// For connections that are opened in the namespace (hook output).
    pub outbound: Vec<Rule>,
}

impl Plan {
    /// The rules for these settings.
    pub fn new(settings: &Settings) -> Plan {
        Plan { inbound: inbound(settings), outbound: outbound(settings) }
    }
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict) -> Rule {
    Rule { matches: matches.into(), verdict }
}

fn inbound(settings: &Settings) -> Vec<Rule> {
    let redirect = Verdict::Redirect(settings.inbound_port);
    match &settings.include_inbound {
        Ports::All => {
            let own = OWN_INBOUND.iter().copied();
            let excluded = own.chain(settings.exclude_inbound.iter().copied());
            let mut rules: Vec<Rule> = excluded.map(|port| rule([Match::Port(port)], Verdict::Return)).collect();
            rules.push(rule([Match::Tcp], redirect));
            rules
        }
        Ports::Only(ports) => ports.iter().map(|port| rule([Match::Port(*port)], redirect)).collect(),
    }
}

fn outbound(settings: &Settings) -> Vec<Rule> {
    let own = settings.mark;
    let to_inbound = Verdict::Redirect(settings.inbound_port);
    let to_outbound = Verdict::Redirect(settings.outbound_port);
    let mut rules = Vec::new();
    for port in &settings.exclude_outbound {
        rules.push(rule([Match::Port(*port)], Verdict::Return));
    }
    // The inbound proxy hands a connection to its own workload from this address; so do probes.
    for from in [IpAddr::V4(ports::INBOUND_PASSTHROUGH_V4), IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))] {
        rules.push(rule([Match::OutLoopback, Match::Tcp, Match::Source(from.into())], Verdict::Return));
    }
    // A workload that calls its own service: its proxy picked this very host, so the call has to come in
    // through the inbound side, as it would from anywhere else.
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        rules.push(rule(
            [Match::Mark(own), Match::OutLoopback, Match::NotDestination(loopback.into()), Match::NotPort(ports::HBONE)],
            to_inbound,
        ));
    }
    // A workload that talks to itself by loopback or by its own address.
    rules.push(rule([Match::OutLoopback, Match::Tcp, Match::NotMark(own)], Verdict::Return));
    rules.push(rule([Match::Mark(own)], Verdict::Return));
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        rules.push(rule([Match::Tcp, Match::Destination(loopback.into())], Verdict::Return));
    }
    for range in &settings.exclude_ranges {
        rules.push(rule([Match::Tcp, Match::Destination(*range)], Verdict::Return));
    }
    for port in &settings.include_outbound {
        rules.push(rule([Match::Port(*port)], to_outbound));
    }
    match &settings.include_ranges {
        Ranges::All => rules.push(rule([Match::Tcp], to_outbound)),
        Ranges::Only(ranges) => {
            for range in ranges {
                rules.push(rule([Match::Tcp, Match::Destination(*range)], to_outbound));
            }
        }
    }
    rules
}

fn family(range: &IpRange) -> &'static str {
    if range.address().is_ipv4() { "ip" } else { "ip6" }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Mark(mark) => write!(f, "meta mark {mark}"),
            Match::NotMark(mark) => write!(f, "meta mark != {mark}"),
            Match::OutLoopback => f.write_str("oifname \"lo\""),
            Match::Tcp => f.write_str("meta l4proto tcp"),
            Match::Port(port) => write!(f, "tcp dport {port}"),
            Match::NotPort(port) => write!(f, "tcp dport != {port}"),
            Match::Source(range) => write!(f, "{} saddr {range}", family(range)),
            Match::Destination(range) => write!(f, "{} daddr {range}", family(range)),
            Match::NotDestination(range) => write!(f, "{} daddr != {range}", family(range)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        match self.verdict {
            Verdict::Return => f.write_str("return"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", crate::TABLE)?;
        for (hook, rules) in [("prerouting", &self.inbound), ("output", &self.outbound)] {
            // -100 is what `dstnat` stands for, a word that nft knows on the hook prerouting alone.
            writeln!(f, "  chain {hook} {{")?;
            writeln!(f, "    type nat hook {hook} priority -100; policy accept;")?;
            for rule in rules {
                writeln!(f, "    {rule}")?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    fn check(settings: Settings, want: &str) {
        let text = Plan::new(&settings).to_string();
        let got: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("table") && !line.starts_with("type") && *line != "}")
            .collect();
        let want: Vec<&str> = want.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(got, want);
        nft_reads(&text);
    }

    /// Asks nft whether it would take the rules, in namespaces of its own: nothing is changed, and an ordinary user may ask.
    fn nft_reads(text: &str) {
        let Some(nft) = mizzen_testkit::peer("nft", "nftables") else { return };
        let run = |program: &[&std::ffi::OsStr], input: &str| {
            let mut child =
                Command::new("unshare").args(["-r", "-n"]).args(program).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().unwrap().write_all(input.as_bytes())?;
            child.wait_with_output()
        };
        let possible = run(&["true".as_ref()], "").is_ok_and(|output| output.status.success());
        if !possible && !mizzen_testkit::require_peers() {
            return mizzen_testkit::skip("this kernel refuses namespaces, in which nft would be asked");
        }
        let output = run(&[nft.as_os_str(), "-c".as_ref(), "-f".as_ref(), "-".as_ref()], text).unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn everything_but_the_proxys_own() {
        check(
            Settings::default(),
            r#"
            chain prerouting {
            tcp dport 15008 return
            tcp dport 15090 return
            tcp dport 15021 return
            tcp dport 15020 return
            meta l4proto tcp redirect to :15006
            chain output {
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta mark 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta mark 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            oifname "lo" meta l4proto tcp meta mark != 1337 return
            meta mark 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp redirect to :15001
            "#,
        );
    }

    #[test]
    fn chosen_parts() {
        check(
            Settings {
                include_inbound: Ports::Only(vec![8080]),
                exclude_inbound: vec![22], // not read beside a list
                include_outbound: vec![443],
                exclude_outbound: vec![3306],
                include_ranges: Ranges::Only(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
                exclude_ranges: vec!["10.1.0.0/16".parse().unwrap()],
                ..Settings::default()
            },
            r#"
            chain prerouting {
            tcp dport 8080 redirect to :15006
            chain output {
            tcp dport 3306 return
            oifname "lo" meta l4proto tcp ip saddr 127.0.0.6/32 return
            oifname "lo" meta l4proto tcp ip6 saddr ::6/128 return
            meta mark 1337 oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != 15008 redirect to :15006
            meta mark 1337 oifname "lo" ip6 daddr != ::1/128 tcp dport != 15008 redirect to :15006
            oifname "lo" meta l4proto tcp meta mark != 1337 return
            meta mark 1337 return
            meta l4proto tcp ip daddr 127.0.0.1/32 return
            meta l4proto tcp ip6 daddr ::1/128 return
            meta l4proto tcp ip daddr 10.1.0.0/16 return
            tcp dport 443 redirect to :15001
            meta l4proto tcp ip daddr 10.0.0.0/8 redirect to :15001
            meta l4proto tcp ip6 daddr fd00::/8 redirect to :15001
            "#,
        );
    }
}
