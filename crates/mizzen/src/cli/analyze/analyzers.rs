//! Groups of codes by the names that istioctl has for its analyzers, for `--list-analyzers` and `--analyzer`.

use mizzen_analyze::Code;

/// A group of codes.
#[derive(Debug)]
pub(crate) struct Analyzer {
    /// The name.
    pub(crate) name: &'static str,
    /// What it looks at.
    pub(crate) about: &'static str,
    /// What it may say.
    pub(crate) codes: &'static [&'static str],
}

macro_rules! analyzers {
    ($($name:literal $about:literal $($code:ident)+;)*) => {
        /// All of them, by name. A code may be of several.
        pub(crate) const ANALYZERS: &[Analyzer] = &[$(Analyzer { name: $name, about: $about, codes: &[$(stringify!($code)),+] }),*];
    };
}

analyzers! {
    "annotations.K8sAnalyzer" "Annotations of Istio: unknown, misplaced, deprecated or wrong" IST0107 IST0108 IST0125 IST0135 IST0136;
    "authz.AuthorizationPoliciesAnalyzer" "Namespaces and workloads that authorization policies name" IST0101 IST0127;
    "conditions.ConditionAnalyzer" "Conditions in the status of objects" IST0171;
    "deployment.ApplicationUIDAnalyzer" "Programs that run as the proxy's user" IST0144;
    "deployment.ServiceAssociationAnalyzer" "Deployments that several services select" IST0116 IST0137;
    "deprecation.DeprecationAnalyzer" "Fields and kinds that go away" IST0002;
    "destinationrule.CaCertificateAnalyzer" "Whether TLS that a rule opens verifies the server" IST0128 IST0129;
    "destinationrule.HostAnalyzer" "Hosts of destination rules" IST0174;
    "destinationrule.PodNotSelectedAnalyzer" "Subsets without workloads" IST0173;
    "envoyfilter.EnvoyPatchAnalyzer" "Patches of EnvoyFilters" IST0151 IST0152 IST0153 IST0154 IST0155;
    "externalcontrolplane.ExternalControlPlaneAnalyzer" "Webhooks that an external control plane serves" IST0163 IST0164;
    "gateway.CertificateAnalyzer" "Certificates that several gateways have" IST0138;
    "gateway.ConflictingGatewayAnalyzer" "Gateways that claim one port and host" IST0145;
    "gateway.IngressGatewayPortAnalyzer" "Gateways' workloads and their services' ports" IST0101 IST0162;
    "gateway.SecretAnalyzer" "Credentials of gateways" IST0101 IST0161;
    "injection.Analyzer" "Whether namespaces and pods have sidecars" IST0102 IST0103 IST0123 IST0148;
    "injection.ImageAnalyzer" "Versions of sidecars" IST0158;
    "injection.ImageAutoAnalyzer" "Workloads that wait for injection and do not get it" IST0146 IST0147;
    "k8sgateway.ApiVersionAnalyzer" "Versions of the Gateway API" IST0156 IST0172 IST0176;
    "k8sgateway.SelectorAnalyzer" "Policies that select a gateway by labels or not at all" IST0166 IST0167;
    "meshnetworks.MeshNetworksAnalyzer" "Registries of meshNetworks" IST0126;
    "mizzen.AdmissionAnalyzer" "Workloads whose proxies their namespace does not admit" MZ0114;
    "mizzen.ClaimAnalyzer" "Objects that are written twice, or have no effect" MZ0003 MZ0004 MZ0005;
    "mizzen.GatewayAnalyzer" "Gateways that take more hosts than they have routes for" MZ0101;
    "mizzen.MutualTlsAnalyzer" "Where mutual TLS is, and where it is not" MZ0102 MZ0105 MZ0109 MZ0112 MZ0113 MZ0120;
    "mizzen.PolicyAnalyzer" "Policies that match nothing, are in another's shadow, or let everybody in" MZ0103 MZ0104 MZ0107 MZ0108;
    "mizzen.ProtocolAnalyzer" "Ports whose protocol has to be guessed" MZ0106;
    "mizzen.SupportAnalyzer" "Kinds and fields that this mesh does not act on" MZ0001 MZ0002 MZ0006 MZ0007;
    "mizzen.TokenAnalyzer" "Tokens of end users and of workloads" MZ0110 MZ0111;
    "multicluster.ServiceAnalyzer" "Services that differ from cluster to cluster" IST0170;
    "schema.ValidationAnalyzer" "Objects that are not of their kind's form" IST0001 IST0106 IST0133;
    "service.PortNameAnalyzer" "Names of services' ports" IST0118 IST0143 IST0150;
    "serviceentry.ProtocolAddressesAnalyzer" "Addresses and protocols of ServiceEntries" IST0134 IST0177;
    "sidecar.SelectorAnalyzer" "Sidecars that select one workload, or none" IST0101 IST0110 IST0111 IST0127;
    "telemetry.ProviderAnalyzer" "Providers of telemetry" IST0157;
    "telemetry.SelectorAnalyzer" "Telemetries that select one workload, or none" IST0101 IST0127 IST0159 IST0160;
    "upgrade.CompatibilityAnalyzer" "What another version would do" IST0141 IST0142 IST0168 IST0169;
    "virtualservice.ConflictingMeshGatewayHostsAnalyzer" "Hosts that several VirtualServices route in the mesh" IST0109;
    "virtualservice.DestinationHostAnalyzer" "Hosts and ports to which VirtualServices route" IST0101 IST0112;
    "virtualservice.DestinationRuleAnalyzer" "Subsets to which VirtualServices route" IST0101;
    "virtualservice.GatewayAnalyzer" "Gateways of VirtualServices, and their hosts" IST0101 IST0132 IST0140 IST0165;
    "virtualservice.JWTClaimRouteAnalyzer" "Routes by claims that nobody verifies" IST0149 IST0175;
    "virtualservice.MatchesAnalyzer" "Rules that no call reaches" IST0130 IST0131;
    "webhook.Analyzer" "Webhooks of injection and validation" IST0139;
}

/// What `--list-analyzers` says.
pub(crate) fn list() -> String {
    ANALYZERS.iter().map(|analyzer| format!("* {}:\n    {}\n", analyzer.name, analyzer.about)).collect()
}

/// The codes of an analyzer, or the one code with this id or name.
///
/// # Errors
/// If there is none, with the name that comes nearest.
pub(crate) fn codes(name: &str) -> Result<Vec<&'static str>, String> {
    if let Some(analyzer) = ANALYZERS.iter().find(|analyzer| analyzer.name.eq_ignore_ascii_case(name)) {
        return Ok(analyzer.codes.to_vec());
    }
    if let Some(code) = Code::named(name) {
        return Ok(vec![code.id]);
    }
    let near = mizzen_api::nearest(name, ANALYZERS.iter().map(|analyzer| analyzer.name));
    let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
    Err(format!("there is no analyzer `{name}`{near} (--list-analyzers names all)"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mizzen_analyze::CODES;

    use super::*;

    #[test]
    fn every_code_is_somebodys() {
        assert!(ANALYZERS.is_sorted_by_key(|analyzer| analyzer.name));
        let all: BTreeSet<&str> = ANALYZERS.iter().flat_map(|analyzer| analyzer.codes).copied().collect();
        assert_eq!(all, CODES.iter().map(|code| code.id).collect());
    }

    #[test]
    fn by_name() {
        assert_eq!(codes("Sidecar.SelectorAnalyzer"), Ok(vec!["IST0101", "IST0110", "IST0111", "IST0127"]));
        assert_eq!((codes("ist0118"), codes("MutualTls")), (Ok(vec!["IST0118"]), Ok(vec!["MZ0120"])));
        let error = codes("gateway.SecretAnalyser").expect_err("none");
        assert!(error.contains("did you mean `gateway.SecretAnalyzer`?"), "{error}");
        assert!(list().starts_with("* annotations.K8sAnalyzer:\n    Annotations "));
    }
}
