//! What is said of a call, for people.

use std::fmt::{self, Formatter, Result};

use crate::call::{Call, Explanation, Hop, Payload, Security, Side, Source, Step, StepKind, To, Verdict, Way};

impl fmt::Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let from = match &self.from {
            Source::Workload(name) => name.clone(),
            Source::Address(ip) => ip.to_string(),
        };
        let Call { host, port, .. } = self;
        match &self.payload {
            Payload::Http { method, path, tls, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{from}: {method} {scheme}://{host}:{port}{path}")
            }
            Payload::Tcp => write!(f, "{from}: TCP to {host}:{port}"),
            Payload::Tls { .. } => write!(f, "{from}: TLS to {host}:{port}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Verdict::Delivered => f.write_str("delivered"),
            Verdict::Denied { policy: Some(policy), .. } => write!(f, "denied by {policy}"),
            Verdict::Denied { policy: None, why } => write!(f, "denied: {why}"),
            Verdict::Answered { status, why } => write!(f, "answered {status}: {why}"),
            Verdict::Closed { why } => write!(f, "closed: {why}"),
            Verdict::Unknown { why } => write!(f, "unknown: {why}"),
            Verdict::Differs { verdicts } => {
                f.write_str("it depends: ")?;
                let all: Vec<String> = verdicts.iter().map(ToString::to_string).collect();
                f.write_str(&all.join("; or "))
            }
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Security::Plaintext => f.write_str("as it came"),
            Security::Tls { server_name } => write!(f, "TLS, server name `{server_name}`"),
            Security::MutualTls { identity, server_name, .. } => write!(f, "mutual TLS as {identity}, server name `{server_name}`"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{}\n=> {}", self.call, self.verdict)?;
        steps(f, &self.steps, 0)?;
        hop(f, &self.hop, 0)
    }
}

impl StepKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            StepKind::Resolve => "address",
            StepKind::Listener => "listener",
            StepKind::Chain => "chain",
            StepKind::Tls => "TLS",
            StepKind::Policy => "policy",
            StepKind::Filter => "filter",
            StepKind::Route => "route",
            StepKind::Rewrite => "rewrite",
            StepKind::Cluster => "cluster",
            StepKind::Endpoints => "endpoints",
        }
    }
}

fn steps(f: &mut Formatter<'_>, steps: &[Step], depth: usize) -> Result {
    for step in steps {
        writeln!(f, "{:depth$}{}: {}", "", step.step.name(), step.outcome)?;
        for reason in &step.reasons {
            let sign = if reason.matched { '+' } else { '-' };
            writeln!(f, "{:indent$}{sign} {}", "", reason.text, indent = depth + 2 + 2 * usize::from(reason.depth))?;
        }
    }
    Ok(())
}

fn hop(f: &mut Formatter<'_>, hop: &Hop, depth: usize) -> Result {
    let side = match hop.side {
        Side::Outbound => "outbound, at",
        Side::Inbound => "inbound, at",
        Side::Gateway => "gateway",
        Side::Bare => "without a proxy:",
    };
    writeln!(f, "{:depth$}{side} {}: {}", "", hop.proxy, hop.verdict)?;
    steps(f, &hop.steps, depth + 2)?;
    hop.ways.iter().try_for_each(|one| way(f, one, depth + 2))
}

fn way(f: &mut Formatter<'_>, way: &Way, depth: usize) -> Result {
    let share = way.share.map(|share| format!(" ({} of {})", share.weight, share.of)).unwrap_or_default();
    let when = way.when.as_ref().map(|when| format!(" ({when})")).unwrap_or_default();
    writeln!(f, "{:depth$}to {}{share}{when}: {}", "", way.cluster, way.verdict)?;
    steps(f, &way.steps, depth + 2)?;
    way.to.iter().try_for_each(|one| to(f, one, depth + 2))
}

fn to(f: &mut Formatter<'_>, to: &To, depth: usize) -> Result {
    let workload = to.workload.as_ref().map(|workload| format!(" ({workload})")).unwrap_or_default();
    let verdict = match &to.verdict {
        Some(verdict) => verdict.to_string(),
        None if to.used => "not followed".to_owned(),
        None => "not called".to_owned(),
    };
    writeln!(f, "{:depth$}{}{workload}, {}: {verdict}", "", to.address, to.security)?;
    steps(f, &to.steps, depth + 2)?;
    to.next.iter().try_for_each(|next| hop(f, next, depth + 2))
}
