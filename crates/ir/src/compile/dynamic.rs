//! Names that are found on demand: the cache of Envoy's dynamic forward proxy, which its clusters and filters configure alike.

use std::time::Duration;

use mizzen_protos::Any;
use mizzen_protos::envoy::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use mizzen_protos::envoy::envoy::config::core::v3::Metadata;
use mizzen_protos::envoy::envoy::extensions::clusters::dynamic_forward_proxy::v3 as cluster;
use mizzen_protos::envoy::envoy::extensions::common::dynamic_forward_proxy::v3 as cache;
use mizzen_protos::envoy::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;
use mizzen_protos::envoy::envoy::r#type::matcher::v3::AddressMatcher;
use mizzen_protos::envoy::xds::core::v3::CidrRange;
use mizzen_protos::wkt::value::Kind;
use mizzen_types::{Hostname, IpRange};

use super::cluster::refresh_rate;
use super::cx::{Cx, Res, harmless, number, refused, silent, type_name};
use crate::config::{Dns, DnsFamily, Dynamic};

pub(super) const SNI: &str = "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig";

/// A cluster whose kind is an extension's, which has to be this one; and whether it may do without what verifies the names that it calls.
pub(super) fn of_cluster(cx: &mut Cx, title: &str, config: Option<Any>) -> Res<(Dynamic, bool)> {
    let known = |any: &Any| type_name(any) == "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
    let Some(any) = config.filter(known) else { return cx.refuse("", format!("`{title}` is not supported")) };
    cx.within("typed_config", |cx| {
        let cluster::ClusterConfig { allow_insecure_cluster_options, allow_coalesced_connections, cluster_implementation_specifier } =
            cx.unpack(&any)?;
        // A connection is for one name here, always.
        silent!(allow_coalesced_connections);
        let cache = match cluster_implementation_specifier {
            Some(cluster::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(cache)) => Some(cache),
            Some(cluster::cluster_config::ClusterImplementationSpecifier::SubClustersConfig(_)) => {
                return cx.refuse("sub_clusters_config", "not supported");
            }
            None => None,
        };
        Ok((cx.must("dns_cache_config", cache, of_cache)?, allow_insecure_cluster_options))
    })
}

/// The filter that finds the names of connections, of which only the port is left to say: the cluster does the rest.
pub(super) fn of_connections(cx: &mut Cx, m: sni::FilterConfig) -> Res<Option<u16>> {
    let sni::FilterConfig { dns_cache_config, save_upstream_address, port_specifier } = m;
    silent!(save_upstream_address);
    cx.must("dns_cache_config", dns_cache_config, of_cache)?;
    let port = port_specifier.map(|sni::filter_config::PortSpecifier::PortValue(port)| cx.port("port_value", port));
    Ok(port.transpose()?.filter(|port| *port != 0))
}

pub(crate) fn of_cache(cx: &mut Cx, m: cache::DnsCacheConfig) -> Res<Dynamic> {
    let cache::DnsCacheConfig {
        name,
        dns_lookup_family,
        dns_refresh_rate,
        dns_min_refresh_rate,
        host_ttl,
        max_hosts,
        disable_dns_refresh_on_failure,
        dns_failure_refresh_rate,
        dns_cache_circuit_breaker,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        preresolve_hostnames,
        dns_query_timeout,
        key_value_config,
        resolved_address_filter,
    } = m;
    // Where names are asked for is the host's business, which its resolver knows. Names known beforehand are resolved when they are asked for.
    silent!(use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, preresolve_hostnames);
    harmless!(cx; disable_dns_refresh_on_failure, dns_query_timeout, key_value_config);
    if name.is_empty() {
        return cx.refuse("name", "it is required");
    }
    let seconds = Duration::from_secs;
    let cache::DnsCacheCircuitBreakers { max_pending_requests } = dns_cache_circuit_breaker.unwrap_or_default();
    let most = |value: Option<u32>| usize::try_from(value.unwrap_or(1024)).unwrap_or(usize::MAX);
    let never = cx.some("resolved_address_filter", resolved_address_filter, |cx, m| {
        let AddressMatcher { ranges, invert_match } = m;
        refused!(cx; invert_match);
        cx.each("ranges", ranges, range)
    })?;
    Ok(Dynamic {
        dns: Dns {
            refresh: cx.duration("dns_refresh_rate", dns_refresh_rate)?.unwrap_or(seconds(60)).max(Duration::from_millis(1)),
            jitter: Duration::ZERO,
            on_failure: cx.some("dns_failure_refresh_rate", dns_failure_refresh_rate, refresh_rate)?,
            respect_ttl: true,
            least: cx.duration("dns_min_refresh_rate", dns_min_refresh_rate)?.unwrap_or(seconds(5)).max(seconds(1)),
            family: family(cx, dns_lookup_family)?,
        },
        max_hosts: most(number(max_hosts)).max(1),
        max_pending: most(number(max_pending_requests)),
        host_ttl: cx.duration("host_ttl", host_ttl)?.unwrap_or(seconds(300)),
        never: never.unwrap_or_default().into(),
        within: None,
        port: None,
    })
}

fn range(cx: &mut Cx, m: CidrRange) -> Res<IpRange> {
    let CidrRange { address_prefix, prefix_len } = m;
    let text = format!("{address_prefix}/{}", number(prefix_len).unwrap_or(0));
    text.parse().map_err(|_| cx.bad("", format!("`{text}` is no range of addresses")))
}

/// Which addresses of a name are used.
pub(super) fn family(cx: &Cx, value: i32) -> Res<DnsFamily> {
    Ok(match cx.choice("dns_lookup_family", value)? {
        DnsLookupFamily::Auto => DnsFamily::Auto,
        DnsLookupFamily::V4Only => DnsFamily::V4,
        DnsLookupFamily::V6Only => DnsFamily::V6,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    })
}

/// Which names a cluster may be asked for, and their port, if its metadata says so: Mizzen's control plane does.
pub(super) fn hold(cx: &Cx, dynamic: &mut Dynamic, metadata: Option<&Metadata>) -> Res<()> {
    let Some(fields) = metadata.and_then(|m| m.filter_metadata.get("mizzen")).map(|m| &m.fields) else { return Ok(()) };
    let bad = |field: &str, what: &str| Err(cx.bad(&format!("metadata.filter_metadata[mizzen].{field}"), what));
    dynamic.within = match fields.get("dynamic_host").map(|value| &value.kind) {
        None => None,
        Some(Some(Kind::StringValue(host))) => match host.parse::<Hostname>() {
            Ok(host) => Some(host),
            Err(_) => return bad("dynamic_host", "no host name"),
        },
        Some(_) => return bad("dynamic_host", "no host name"),
    };
    dynamic.port = match fields.get("dynamic_port").map(|value| &value.kind) {
        None => None,
        Some(Some(Kind::NumberValue(port))) if (1.0..=65535.0).contains(port) && port.fract() == 0.0 => Some(*port as u16),
        Some(_) => return bad("dynamic_port", "no port"),
    };
    Ok(())
}
