//! The codes of messages: Istio's (`IST…`, as in istioctl's `msg` package) and this project's (`MZ…`).

use std::fmt;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Likely a mistake.
    Warning,
    /// A mistake.
    Error,
}

impl Level {
    /// As istioctl has it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "Info",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }

    /// By its name, in any case.
    pub fn named(name: &str) -> Option<Level> {
        [Level::Info, Level::Warning, Level::Error].into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Such as `IST0101`.
    pub id: &'static str,
    /// Such as `ReferencedResourceNotFound`.
    pub name: &'static str,
    /// Of all its messages.
    pub level: Level,
    /// Whether it is an overview of what is, which is told when it is asked for or when nothing else is said.
    pub is_overview: bool,
}

impl Code {
    /// By its id (`IST0101`) or its name, in any case.
    pub fn named(name: &str) -> Option<&'static Code> {
        CODES.iter().copied().find(|code| code.id.eq_ignore_ascii_case(name) || code.name.eq_ignore_ascii_case(name))
    }
}

macro_rules! codes {
    ($($id:ident $name:ident $level:ident $($overview:ident)?;)*) => {
        $(#[doc = stringify!($name)]
        pub(crate) static $id: Code =
            Code { id: stringify!($id), name: stringify!($name), level: Level::$level, is_overview: codes!(@ $($overview)?) };)*

        /// All codes, in the order of their ids.
        pub static CODES: &[&Code] = &[$(&$id),*];
    };
    (@) => { false };
    (@ overview) => { true };
}

codes! {
    IST0001 InternalError Error;
    IST0002 Deprecated Warning;
    IST0101 ReferencedResourceNotFound Error;
    IST0102 NamespaceNotInjected Info;
    IST0103 PodMissingProxy Warning;
    IST0106 SchemaValidationError Error;
    IST0107 MisplacedAnnotation Warning;
    IST0108 UnknownAnnotation Warning;
    IST0109 ConflictingMeshGatewayVirtualServiceHosts Error;
    IST0110 ConflictingSidecarWorkloadSelectors Error;
    IST0111 MultipleSidecarsWithoutWorkloadSelectors Error;
    IST0112 VirtualServiceDestinationPortSelectorRequired Error;
    IST0116 DeploymentAssociatedToMultipleServices Warning;
    IST0118 PortNameIsNotUnderNamingConvention Info;
    IST0123 NamespaceMultipleInjectionLabels Warning;
    IST0125 InvalidAnnotation Warning;
    IST0126 UnknownMeshNetworksServiceRegistry Error;
    IST0127 NoMatchingWorkloadsFound Warning;
    IST0128 NoServerCertificateVerificationDestinationLevel Warning;
    IST0129 NoServerCertificateVerificationPortLevel Warning;
    IST0130 VirtualServiceUnreachableRule Warning;
    IST0131 VirtualServiceIneffectiveMatch Info;
    IST0132 VirtualServiceHostNotFoundInGateway Warning;
    IST0133 SchemaWarning Warning;
    IST0134 ServiceEntryAddressesRequired Warning;
    IST0135 DeprecatedAnnotation Info;
    IST0136 AlphaAnnotation Info overview;
    IST0137 DeploymentConflictingPorts Warning;
    IST0138 GatewayDuplicateCertificate Warning;
    IST0139 InvalidWebhook Error;
    IST0140 IngressRouteRulesNotAffected Warning;
    IST0141 InsufficientPermissions Error;
    IST0142 UnsupportedKubernetesVersion Error;
    IST0143 LocalhostListener Error;
    IST0144 InvalidApplicationUID Warning;
    IST0145 ConflictingGateways Error;
    IST0146 ImageAutoWithoutInjectionWarning Warning;
    IST0147 ImageAutoWithoutInjectionError Error;
    IST0148 NamespaceInjectionEnabledByDefault Info;
    IST0149 JwtClaimBasedRoutingWithoutRequestAuthN Error;
    IST0150 ExternalNameServiceTypeInvalidPortName Warning;
    IST0151 EnvoyFilterUsesRelativeOperation Warning;
    IST0152 EnvoyFilterUsesReplaceOperationIncorrectly Error;
    IST0153 EnvoyFilterUsesAddOperationIncorrectly Error;
    IST0154 EnvoyFilterUsesRemoveOperationIncorrectly Error;
    IST0155 EnvoyFilterUsesRelativeOperationWithProxyVersion Warning;
    IST0156 UnsupportedGatewayAPIVersion Error;
    IST0157 InvalidTelemetryProvider Warning;
    IST0158 PodsIstioProxyImageMismatchInNamespace Warning;
    IST0159 ConflictingTelemetryWorkloadSelectors Error;
    IST0160 MultipleTelemetriesWithoutWorkloadSelectors Error;
    IST0161 InvalidGatewayCredential Error;
    IST0162 GatewayPortNotDefinedOnService Warning;
    IST0163 InvalidExternalControlPlaneConfig Warning;
    IST0164 ExternalControlPlaneAddressIsNotAHostname Info;
    IST0165 ReferencedInternalGateway Warning;
    IST0166 IneffectiveSelector Warning;
    IST0167 IneffectivePolicy Warning;
    IST0168 UnknownUpgradeCompatibility Warning;
    IST0169 UpdateIncompatibility Warning;
    IST0170 MultiClusterInconsistentService Warning;
    IST0171 NegativeConditionStatus Warning;
    IST0172 FutureUnsupportedGatewayAPIVersion Warning;
    IST0173 DestinationRuleSubsetNotSelectPods Error;
    IST0174 UnknownDestinationRuleHost Warning;
    IST0175 JwksUriFetchUnrestricted Warning;
    IST0176 GatewayAPICRDVersionBelowMinimum Warning;
    IST0177 ConflictingServiceEntryProtocol Warning;
    MZ0001 KindNotSupported Warning;
    MZ0002 FieldNotSupported Warning;
    MZ0003 DeclaredTwice Error;
    MZ0004 NoEffect Warning;
    MZ0005 RefusedByProxy Error;
    MZ0006 ForeignKind Info overview;
    MZ0007 NotOnOneHost Info overview;
    MZ0101 BroadGatewayHosts Warning;
    MZ0102 TlsOriginationVerifiesNothing Warning;
    MZ0103 PolicyNeverMatches Warning;
    MZ0104 RuleShadowed Warning;
    MZ0105 PermissiveIsland Warning;
    MZ0106 ProtocolByGuess Warning;
    MZ0107 EverybodyAllowed Warning;
    MZ0108 NoDefaultDeny Info;
    MZ0109 UnknownTrustDomain Warning;
    MZ0110 TokenNotRequired Warning;
    MZ0111 FirstPartyToken Warning;
    MZ0112 PlaintextToStrict Warning;
    MZ0113 TlsOriginationTakesAnyName Warning;
    MZ0114 TransparentNotAdmitted Warning;
    MZ0120 MutualTls Info overview;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        assert!(CODES.is_sorted_by_key(|code| code.id));
        for code in CODES {
            assert_eq!(Code::named(&code.id.to_lowercase()), Some(*code));
            assert_eq!(Code::named(code.name), Some(*code));
        }
        assert_eq!(CODES.iter().filter(|code| code.id.starts_with("IST")).count(), 68);
    }
}
