//! Response flags, Envoy's.

use std::fmt;

/// A set of response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        #[allow(missing_docs)]
        impl Flags {
            $(pub(crate) const $name: Flags = Flags(1 << $bit);)*
            const ALL: &'static [(Flags, &'static str, &'static str)] = &[$((Flags::$name, $short, $long),)*];
        }
    };
}

// In the order in which Envoy prints them.
flags! {
    NO_HEALTHY_UPSTREAM = 0, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 1, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 2, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 3, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 4, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 5, "UC", "UpstreamConnectionTermination";
    UPSTREAM_OVERFLOW = 6, "UO", "UpstreamOverflow";
    NO_ROUTE = 7, "NR", "NoRouteFound";
    DOWNSTREAM_CONNECTION_TERMINATION = 8, "DC", "DownstreamConnectionTermination";
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 9, "URX", "UpstreamRetryLimitExceeded";
    STREAM_IDLE_TIMEOUT = 10, "SI", "StreamIdleTimeout";
    DOWNSTREAM_PROTOCOL_ERROR = 11, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION = 12, "UMSDR", "UpstreamMaxStreamDurationReached";
    DURATION_TIMEOUT = 13, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 14, "UPE", "UpstreamProtocolError";
    NO_CLUSTER = 15, "NC", "NoClusterFound";
    OVERLOAD = 16, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 22, "DF", "DnsResolutionFailed";
    DOWNSTREAM_REMOTE_RESET = 17, "DR", "DownstreamRemoteReset";
    DELAY_INJECTED = 18, "DI", "DelayInjected";
    FAULT_INJECTED = 19, "FI", "FaultInjected";
    RATE_LIMITED = 20, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 21, "UAEX", "UnauthorizedExternalService";
}

impl Flags {
    /// Adds another's.
    pub(crate) fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `other`'s is set.
    pub(crate) fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// The names, short or long.
    pub(crate) fn names(self, long: bool) -> impl Iterator<Item = &'static str> {
        Flags::ALL.iter().filter(move |(flag, ..)| self.has(*flag)).map(move |(_, short, name)| if long { *name } else { *short })
    }
}

impl fmt::Display for Flags {
    /// As Envoy's `%RESPONSE_FLAGS%`; `-` if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (at, name) in self.names(false).enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    #[test]
    fn printed() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
    }
}
