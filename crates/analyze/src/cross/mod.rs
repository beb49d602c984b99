//! What objects say of each other.

mod deployments;
mod exposure;
mod injection;
mod mutual_tls;
mod networks;
mod policies;
mod webhooks;

use crate::Cx;

/// Looks at one object among all others.
pub(crate) fn look(cx: &Cx<'_>) {
    exposure::look(cx);
    mutual_tls::look(cx);
    policies::look(cx);
    if !cx.entry.id.is_of_system() {
        deployments::look(cx);
        injection::look(cx);
        networks::look(cx);
        webhooks::look(cx);
    }
}
