//! Policies that judge requests; the network filter of the same name judges connections.

use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::rbac::v3 as rbac;
use mizzen_protos::envoy::envoy::extensions::filters::http::rbac::v3 as http;
use mizzen_protos::envoy::envoy::extensions::filters::network::rbac::v3 as network_v3;
use mizzen_types::Name;

use super::FilterOverride;
use crate::compile::cx::{Cx, Res, harmless, name, refused, silent};
use crate::compile::rbac as rules;
use crate::config::Rbac;

pub(super) const TYPE: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
pub(super) const PER_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";

/// A filter that enforces one policy set and may watch another.
#[derive(Clone, Debug, PartialEq)]
pub struct RbacFilter {
    /// What is enforced; none: nothing is.
    pub rules: Option<Arc<Rbac>>,
    /// What is only evaluated and recorded (Istio's dry run, and its CUSTOM action).
    pub shadow: Option<Arc<Rbac>>,
    /// The prefix of what the shadow leaves in the dynamic metadata, which also names its mode.
    pub shadow_prefix: Name,
}

impl RbacFilter {
    /// The filter's own rules, or those that a route has in their place.
    pub fn in_force<'a>(&'a self, route: Option<&'a FilterOverride>) -> &'a RbacFilter {
        match route {
            Some(FilterOverride::Rbac(other)) => other,
            _ => self,
        }
    }
}

/// Other rules for a route; none at all: the filter does nothing there.
pub(super) fn per_route(cx: &mut Cx, m: http::RbacPerRoute) -> Res<FilterOverride> {
    let http::RbacPerRoute { rbac } = m;
    match rbac {
        None => Ok(FilterOverride::Off),
        Some(m) => Ok(FilterOverride::Rbac(cx.within("rbac", |cx| compile(cx, m))?.into())),
    }
}

pub(super) fn compile(cx: &mut Cx, m: http::Rbac) -> Res<RbacFilter> {
    let http::Rbac { rules, rules_stat_prefix, matcher, shadow_rules, shadow_matcher, shadow_rules_stat_prefix, track_per_rule_stats } = m;
    refused!(cx; matcher, shadow_matcher);
    silent!(rules_stat_prefix, track_per_rule_stats);
    filter(cx, rules, shadow_rules, &shadow_rules_stat_prefix)
}

pub(crate) fn network(cx: &mut Cx, m: network_v3::Rbac) -> Res<RbacFilter> {
    let network_v3::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = m;
    // Once, as by default; a connection is judged again when its policy changes, so "continuous" asks for no more.
    silent!(stat_prefix, enforcement_type);
    refused!(cx; matcher, shadow_matcher);
    harmless!(cx; delay_deny);
    filter(cx, rules, shadow_rules, &shadow_rules_stat_prefix)
}

fn filter(cx: &mut Cx, rules: Option<rbac::Rbac>, shadow: Option<rbac::Rbac>, prefix: &str) -> Res<RbacFilter> {
    let rules = cx.some("rules", rules, rules::compile)?.map(Into::into);
    let shadow = cx.some("shadow_rules", shadow, rules::compile)?.map(Into::into);
    Ok(RbacFilter { rules, shadow, shadow_prefix: name(prefix) })
}
