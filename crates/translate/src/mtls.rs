//! Where mutual TLS is tried without a rule that asks for it.

use mizzen_api::istio::MtlsMode;
use mizzen_model::{Endpoint, ServiceView};

use crate::scope::Scope;

/// Whether mutual TLS is tried with a service's endpoints where no rule says otherwise.
pub(crate) fn is_auto(scope: &Scope<'_, '_>, service: &ServiceView) -> bool {
    // What holds for the namespace; what a single workload says of itself shows at its endpoints.
    let plain = || {
        let namespace = service.namespace();
        scope.reader.may_be_plain(namespace) && disabled(scope.reader.peer_modes(namespace, |_| false).workload)
    };
    !service.external && scope.mesh().enable_auto_mtls && !plain()
}

/// Whether an endpoint has a sidecar and takes mutual TLS at its port.
pub(crate) fn is_taken(scope: &Scope<'_, '_>, endpoint: &Endpoint) -> bool {
    let plain = || {
        let namespace = &endpoint.namespace;
        let modes = || scope.reader.peer_modes(namespace, |selector| selector.matches(&endpoint.labels));
        scope.reader.may_be_plain(namespace) && disabled(modes().port(endpoint.port))
    };
    endpoint.tls && !plain()
}

/// Whether plain text is all that a namespace's workloads take.
fn disabled(mode: MtlsMode) -> bool {
    mode == MtlsMode::Disable
}
