//! How a cluster balances: by the fields of old (`lb_policy` and what belongs to it), or by `load_balancing_policy`.

use mizzen_protos::envoy::envoy::config::cluster::v3 as cluster;
use mizzen_protos::envoy::envoy::config::cluster::v3::cluster::DiscoveryType as Type;
use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::load_balancing_policies as lb;
use mizzen_protos::envoy::envoy::r#type::v3 as types;
use mizzen_protos::{Any, wkt};
use mizzen_types::Name;

use super::cx::{Cx, Res, flag, harmless, hash_of, name, number, refused, silent, type_name};
use super::hash_policy;
use crate::config::{Balancing, Criteria, Hashing, LbPolicy, LbValue, SlowStart, SubsetFallback, SubsetSelector, Subsets};

/// What a cluster says of it.
pub(super) struct Given {
    pub(super) kind: Type,
    pub(super) policy: i32,
    pub(super) config: Option<cluster::cluster::LbConfig>,
    pub(super) subsets: Option<cluster::cluster::LbSubsetConfig>,
    pub(super) common: Option<cluster::cluster::CommonLbConfig>,
    pub(super) typed: Option<cluster::LoadBalancingPolicy>,
}

/// The most places on a ring, and the largest table.
const MOST_PLACES: u64 = 8 << 20;
const LARGEST_TABLE: u64 = 5_000_011;

pub(super) fn balancing(cx: &mut Cx, given: Given) -> Res<Balancing> {
    let Given { kind, policy, config, subsets, common, typed } = given;
    let mut all = Balancing {
        policy: LbPolicy::Random,
        panic_threshold: 50,
        fail_on_panic: false,
        locality_weighted: false,
        subsets: None,
        hash: [].into(),
    };
    let hashing = cx.some("common_lb_config", common, |cx, m| common_lb(cx, m, &mut all))?.unwrap_or_default();
    let field = if typed.is_some() { "load_balancing_policy" } else { "lb_policy" };
    match typed {
        Some(typed) => {
            // What was said in the old way of these belongs to the old policies.
            (all.locality_weighted, all.fail_on_panic) = (false, false);
            if subsets.is_some() {
                return cx.refuse("lb_subset_config", "not together with load_balancing_policy");
            }
            cx.within("load_balancing_policy", |cx| first_of(cx, typed, &mut all, Within::Cluster))?;
        }
        None => {
            all.policy = by_name(cx, policy, config, hashing)?;
            all.subsets = cx.some("lb_subset_config", subsets, old_subsets)?.flatten().map(Into::into);
        }
    }
    if (kind == Type::OriginalDst) != (all.policy == LbPolicy::Provided) {
        return cx.refuse(field, "CLUSTER_PROVIDED belongs to ORIGINAL_DST, and to nothing else");
    }
    Ok(all)
}

fn common_lb(cx: &mut Cx, m: cluster::cluster::CommonLbConfig, all: &mut Balancing) -> Res<Hashing> {
    use cluster::cluster::common_lb_config as common;
    let cluster::cluster::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = m;
    // Whoever compiles the checks reads what concerns unchecked hosts.
    silent!(update_merge_window, ignore_new_hosts_until_first_hc, close_connections_on_host_set_change);
    harmless!(cx; override_host_status);
    match locality_config_specifier {
        None => {}
        Some(common::LocalityConfigSpecifier::LocalityWeightedLbConfig(common::LocalityWeightedLbConfig {})) => {
            all.locality_weighted = true;
        }
        Some(common::LocalityConfigSpecifier::ZoneAwareLbConfig(m)) => {
            let common::ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } = m;
            zone_aware(cx, routing_enabled.is_some() || min_cluster_size.is_some());
            all.fail_on_panic = fail_traffic_on_panic;
        }
    }
    if let Some(types::Percent { value }) = healthy_panic_threshold {
        all.panic_threshold = percent(value);
    }
    let hashing = cx.some("consistent_hashing_lb_config", consistent_hashing_lb_config, |cx, m| {
        let common::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor } = m;
        Ok(Hashing { by_hostname: use_hostname_for_hashing, balance_factor: balance_factor(cx, hash_balance_factor)? })
    })?;
    Ok(hashing.unwrap_or_default())
}

/// Without a cluster of the proxy's own kind there is nothing to prefer a zone by, and we have none.
fn zone_aware(cx: &mut Cx, wanted: bool) {
    if wanted {
        cx.warn("zone_aware_lb_config", "localities are not preferred by zone");
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn percent(value: f64) -> u32 {
    value.clamp(0.0, 100.0).round() as u32
}

fn balance_factor(cx: &Cx, m: Option<wkt::UInt32Value>) -> Res<u32> {
    match number(m) {
        Some(factor) if factor < 100 => cx.refuse("hash_balance_factor", format!("{factor} is below 100")),
        factor => Ok(factor.unwrap_or(0)),
    }
}

/// By `lb_policy`. The configuration of another policy than the one that is named says nothing.
fn by_name(cx: &mut Cx, policy: i32, config: Option<cluster::cluster::LbConfig>, hashing: Hashing) -> Res<LbPolicy> {
    use cluster::cluster::{LbConfig as C, LbPolicy as P};
    let policy: P = cx.choice("lb_policy", policy)?;
    Ok(match (policy, config) {
        (P::RoundRobin, Some(C::RoundRobinLbConfig(m))) => {
            let cluster::cluster::RoundRobinLbConfig { slow_start_config } = m;
            LbPolicy::RoundRobin { slow_start: cx.some("round_robin_lb_config.slow_start_config", slow_start_config, old_slow_start)? }
        }
        (P::RoundRobin, _) => LbPolicy::RoundRobin { slow_start: None },
        (P::LeastRequest, Some(C::LeastRequestLbConfig(m))) => cx.within("least_request_lb_config", |cx| {
            let cluster::cluster::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = m;
            let slow_start = cx.some("slow_start_config", slow_start_config, old_slow_start)?;
            Ok(LbPolicy::LeastRequest { choices: Some(choices(cx, choice_count)?), bias: bias(cx, active_request_bias)?, slow_start })
        })?,
        (P::LeastRequest, _) => LbPolicy::LeastRequest { choices: Some(2), bias: 1.0, slow_start: None },
        (P::Random, _) => LbPolicy::Random,
        (P::RingHash, Some(C::RingHashLbConfig(m))) => cx.within("ring_hash_lb_config", |cx| {
            let cluster::cluster::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = m;
            use cluster::cluster::ring_hash_lb_config::HashFunction as H;
            let murmur = cx.choice::<H>("hash_function", hash_function)? == H::MurmurHash2;
            ring(cx, minimum_ring_size, maximum_ring_size, murmur, hashing)
        })?,
        (P::RingHash, _) => ring(cx, None, None, false, hashing)?,
        (P::Maglev, Some(C::MaglevLbConfig(m))) => cx.within("maglev_lb_config", |cx| {
            let cluster::cluster::MaglevLbConfig { table_size } = m;
            table(cx, table_size, hashing)
        })?,
        (P::Maglev, _) => table(cx, None, hashing)?,
        (P::ClusterProvided, _) => LbPolicy::Provided,
        (P::LoadBalancingPolicyConfig, _) => {
            return cx.refuse("lb_policy", "LOAD_BALANCING_POLICY_CONFIG without a load_balancing_policy");
        }
    })
}

fn choices(cx: &Cx, m: Option<wkt::UInt32Value>) -> Res<u32> {
    match number(m) {
        Some(count) if count < 2 => cx.refuse("choice_count", format!("{count} is below 2")),
        count => Ok(count.unwrap_or(2)),
    }
}

/// A number that a runtime key could override, which we do not have: its default counts.
fn runtime_double(cx: &mut Cx, m: core::RuntimeDouble) -> f64 {
    let core::RuntimeDouble { default_value, runtime_key } = m;
    harmless!(cx; runtime_key);
    default_value
}

fn bias(cx: &mut Cx, m: Option<core::RuntimeDouble>) -> Res<f64> {
    let bias = m.map_or(1.0, |m| runtime_double(cx, m));
    if bias.is_finite() && bias >= 0.0 { Ok(bias) } else { cx.refuse("active_request_bias", format!("{bias} is below 0")) }
}

fn ring(cx: &mut Cx, min: Option<wkt::UInt64Value>, max: Option<wkt::UInt64Value>, murmur: bool, hashing: Hashing) -> Res<LbPolicy> {
    let (min, max) = (min.map_or(1024, |v| v.value), max.map_or(MOST_PLACES, |v| v.value));
    if max > MOST_PLACES {
        return cx.refuse("maximum_ring_size", format!("{max} is above {MOST_PLACES}"));
    }
    if min == 0 || min > max {
        return cx.refuse("minimum_ring_size", format!("{min} is not between 1 and {max}, the maximum"));
    }
    Ok(LbPolicy::RingHash { min, max, murmur, hashing })
}

fn table(cx: &mut Cx, size: Option<wkt::UInt64Value>, hashing: Hashing) -> Res<LbPolicy> {
    let size = size.map_or(65_537, |v| v.value);
    let is_prime = size >= 2 && (2..).take_while(|n| n * n <= size).all(|n| !size.is_multiple_of(n));
    match u32::try_from(size) {
        Ok(size) if is_prime && u64::from(size) <= LARGEST_TABLE => Ok(LbPolicy::Maglev { size, hashing }),
        _ => cx.refuse("table_size", format!("{size} is not a prime up to {LARGEST_TABLE}")),
    }
}

fn old_slow_start(cx: &mut Cx, m: cluster::cluster::SlowStartConfig) -> Res<SlowStart> {
    let cluster::cluster::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = m;
    slow_start(cx, lb::common::v3::SlowStartConfig { slow_start_window, aggression, min_weight_percent })
}

fn slow_start(cx: &mut Cx, m: lb::common::v3::SlowStartConfig) -> Res<SlowStart> {
    let lb::common::v3::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = m;
    let Some(window) = cx.limit("slow_start_window", slow_start_window, None)? else {
        return cx.refuse("slow_start_window", "it is required, and not zero");
    };
    let aggression = aggression.map_or(1.0, |m| runtime_double(cx, m));
    if !aggression.is_finite() || aggression <= 0.0 {
        return cx.refuse("aggression", format!("{aggression} is not above 0"));
    }
    let min_share = min_weight_percent.map_or(10.0, |types::Percent { value }| value).clamp(0.0, 100.0) / 100.0;
    Ok(SlowStart { window, aggression, min_share })
}

/// Where a list of policies stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Cluster,
    Subsets,
    Localities,
}

/// By the first policy of the list that we have.
fn first_of(cx: &mut Cx, m: cluster::LoadBalancingPolicy, all: &mut Balancing, within: Within) -> Res<()> {
    let cluster::LoadBalancingPolicy { policies } = m;
    let mut unknown = Vec::new();
    for (i, cluster::load_balancing_policy::Policy { typed_extension_config }) in policies.into_iter().enumerate() {
        let Some(core::TypedExtensionConfig { name: title, typed_config }) = typed_extension_config else {
            return cx.refuse(&format!("policies[{i}].typed_extension_config"), "it is required");
        };
        let Some(any) = typed_config else {
            return cx.refuse(&format!("policies[{i}].typed_extension_config.typed_config"), "it is required");
        };
        let field = format!("policies[{i}].typed_extension_config.typed_config");
        if cx.within(&field, |cx| typed(cx, &any, all, within))? {
            return Ok(());
        }
        unknown.push(if title.is_empty() { type_name(&any).to_owned() } else { title });
    }
    cx.refuse("policies", format!("none of them is supported here: {}", unknown.join(", ")))
}

/// A policy by its message; `false`: we do not have it.
fn typed(cx: &mut Cx, any: &Any, all: &mut Balancing, within: Within) -> Res<bool> {
    match type_name(any).strip_prefix("envoy.extensions.load_balancing_policies.").unwrap_or_default() {
        "round_robin.v3.RoundRobin" => {
            let lb::round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } = cx.unpack(any)?;
            locality(cx, locality_lb_config, all);
            all.policy = LbPolicy::RoundRobin { slow_start: cx.some("slow_start_config", slow_start_config, slow_start)? };
        }
        "least_request.v3.LeastRequest" => {
            use lb::least_request::v3::least_request::SelectionMethod as S;
            let lb::least_request::v3::LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = cx.unpack(any)?;
            locality(cx, locality_lb_config, all);
            let all_looked_at =
                flag(enable_full_scan) == Some(true) || cx.choice::<S>("selection_method", selection_method)? == S::FullScan;
            let choices = choices(cx, choice_count)?;
            let slow_start = cx.some("slow_start_config", slow_start_config, slow_start)?;
            let bias = bias(cx, active_request_bias)?;
            all.policy = LbPolicy::LeastRequest { choices: (!all_looked_at).then_some(choices), bias, slow_start };
        }
        "random.v3.Random" => {
            let lb::random::v3::Random { locality_lb_config } = cx.unpack(any)?;
            locality(cx, locality_lb_config, all);
            all.policy = LbPolicy::Random;
        }
        "ring_hash.v3.RingHash" => typed_ring(cx, any, all)?,
        "maglev.v3.Maglev" => {
            let lb::maglev::v3::Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } = cx.unpack(any)?;
            all.locality_weighted |= locality_weighted_lb_config.is_some();
            let hashing = consistent(cx, consistent_hashing_lb_config, all)?.unwrap_or_default();
            all.policy = table(cx, table_size, hashing)?;
        }
        "cluster_provided.v3.ClusterProvided" if within == Within::Cluster => all.policy = LbPolicy::Provided,
        "wrr_locality.v3.WrrLocality" if within != Within::Localities => {
            let lb::wrr_locality::v3::WrrLocality { endpoint_picking_policy } = cx.unpack(any)?;
            cx.must("endpoint_picking_policy", endpoint_picking_policy, |cx, m| first_of(cx, m, all, Within::Localities))?;
            all.locality_weighted = true;
        }
        "subset.v3.Subset" if within == Within::Cluster => {
            let m: lb::subset::v3::Subset = cx.unpack(any)?;
            let inner = m.subset_lb_policy.clone();
            cx.must("subset_lb_policy", inner, |cx, m| first_of(cx, m, all, Within::Subsets))?;
            all.subsets = subsets(cx, m)?.map(Into::into);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn typed_ring(cx: &mut Cx, any: &Any, all: &mut Balancing) -> Res<()> {
    use lb::ring_hash::v3::ring_hash::HashFunction as H;
    let lb::ring_hash::v3::RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = cx.unpack(any)?;
    all.locality_weighted |= locality_weighted_lb_config.is_some();
    let hashing = match consistent(cx, consistent_hashing_lb_config, all)? {
        Some(hashing) => hashing,
        None => Hashing { by_hostname: use_hostname_for_hashing, balance_factor: balance_factor(cx, hash_balance_factor)? },
    };
    let murmur = cx.choice::<H>("hash_function", hash_function)? == H::MurmurHash2;
    all.policy = ring(cx, minimum_ring_size, maximum_ring_size, murmur, hashing)?;
    Ok(())
}

fn consistent(cx: &mut Cx, m: Option<lb::common::v3::ConsistentHashingLbConfig>, all: &mut Balancing) -> Res<Option<Hashing>> {
    cx.some("consistent_hashing_lb_config", m, |cx, m| {
        let lb::common::v3::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor, hash_policy } = m;
        all.hash = hash_policy::of_requests(cx, hash_policy)?;
        Ok(Hashing { by_hostname: use_hostname_for_hashing, balance_factor: balance_factor(cx, hash_balance_factor)? })
    })
}

fn locality(cx: &mut Cx, m: Option<lb::common::v3::LocalityLbConfig>, all: &mut Balancing) {
    use lb::common::v3::locality_lb_config::{LocalityConfigSpecifier as L, LocalityWeightedLbConfig, ZoneAwareLbConfig};
    match m.and_then(|lb::common::v3::LocalityLbConfig { locality_config_specifier }| locality_config_specifier) {
        None => {}
        Some(L::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => all.locality_weighted = true,
        Some(L::ZoneAwareLbConfig(m)) => {
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
                force_locality_direct_routing,
                force_local_zone,
                locality_basis,
            } = m;
            let basis = locality_basis != 0;
            let force = force_locality_direct_routing || force_local_zone.is_some();
            zone_aware(cx, routing_enabled.is_some() || min_cluster_size.is_some() || force || basis);
            all.fail_on_panic = fail_traffic_on_panic;
        }
    }
}

fn old_subsets(cx: &mut Cx, m: cluster::cluster::LbSubsetConfig) -> Res<Option<Subsets>> {
    use cluster::cluster::lb_subset_config::LbSubsetSelector;
    let cluster::cluster::LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    } = m;
    // The enumerations have the same numbers.
    let selector = |LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset }| {
        lb::subset::v3::subset::LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset }
    };
    let subset_selectors = subset_selectors.into_iter().map(selector).collect();
    let typed = lb::subset::v3::Subset {
        fallback_policy,
        default_subset,
        subset_selectors,
        allow_redundant_keys: false,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        subset_lb_policy: None,
    };
    subsets(cx, typed)
}

/// Without selectors there are no groups at all.
fn subsets(cx: &mut Cx, m: lb::subset::v3::Subset) -> Res<Option<Subsets>> {
    use lb::subset::v3::subset::LbSubsetFallbackPolicy as F;
    let lb::subset::v3::Subset {
        fallback_policy,
        default_subset,
        subset_selectors,
        allow_redundant_keys,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        subset_lb_policy,
    } = m;
    silent!(subset_lb_policy);
    refused!(cx; metadata_fallback_policy);
    if scale_locality_weight && !locality_weight_aware {
        return cx.refuse("scale_locality_weight", "only with locality_weight_aware");
    }
    let selectors = cx.each("subset_selectors", subset_selectors, selector)?;
    let fallback = match cx.choice("fallback_policy", fallback_policy)? {
        F::NoFallback => SubsetFallback::None,
        F::AnyEndpoint => SubsetFallback::Any,
        F::DefaultSubset => SubsetFallback::Default,
    };
    Ok((!selectors.is_empty()).then(|| Subsets {
        selectors: selectors.into(),
        fallback,
        default: default_subset.map(values).unwrap_or_else(|| [].into()),
        redundant_keys: allow_redundant_keys,
        locality_weights: locality_weight_aware,
        scaled_weights: scale_locality_weight,
        panic_any: panic_mode_any,
        list_as_any,
    }))
}

fn selector(cx: &mut Cx, m: lb::subset::v3::subset::LbSubsetSelector) -> Res<SubsetSelector> {
    use lb::subset::v3::subset::lb_subset_selector::LbSubsetSelectorFallbackPolicy as F;
    let lb::subset::v3::subset::LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset } = m;
    refused!(cx; single_host_per_subset);
    let sorted = |list: Vec<String>| {
        let mut list: Vec<Name> = list.iter().map(|key| name(key)).collect();
        list.sort();
        list.dedup();
        list
    };
    let (keys, fewer) = (sorted(keys), sorted(fallback_keys_subset));
    if keys.is_empty() {
        return cx.refuse("keys", "at least one is required");
    }
    let fallback = match cx.choice("fallback_policy", fallback_policy)? {
        F::NotDefined => None,
        F::NoFallback => Some(SubsetFallback::None),
        F::AnyEndpoint => Some(SubsetFallback::Any),
        F::DefaultSubset => Some(SubsetFallback::Default),
        F::KeysSubset => {
            if fewer.is_empty() || fewer.len() == keys.len() || fewer.iter().any(|key| !keys.contains(key)) {
                return cx.refuse("fallback_keys_subset", "some of the selector's keys, but not all");
            }
            return Ok(SubsetSelector { keys: keys.into(), fallback: Some(SubsetFallback::Keys(fewer.into())) });
        }
    };
    if !fewer.is_empty() {
        return cx.refuse("fallback_keys_subset", "only with KEYS_SUBSET");
    }
    Ok(SubsetSelector { keys: keys.into(), fallback })
}

/// What routes ask of endpoints' metadata, or endpoints have there; other metadata is for others.
pub(super) fn criteria(m: core::Metadata) -> Option<Criteria> {
    let core::Metadata { mut filter_metadata, typed_filter_metadata: _ } = m;
    filter_metadata.remove("envoy.lb").filter(|m| !m.fields.is_empty()).map(values)
}

/// The values of `more` beside or in place of those of `base`.
pub(super) fn merged(base: Option<&Criteria>, more: Option<Criteria>) -> Option<Criteria> {
    let (Some(base), Some(more)) = (base, &more) else { return more.or_else(|| base.cloned()) };
    let kept = base.iter().filter(|(key, _)| !more.iter().any(|(known, _)| known == key));
    let mut all: Vec<_> = kept.chain(more.iter()).cloned().collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(all.into())
}

fn values(m: wkt::Struct) -> Criteria {
    let mut all: Vec<_> = m.fields.into_iter().map(|(key, v)| (name(&key), value(v))).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into()
}

fn value(m: wkt::Value) -> LbValue {
    use wkt::value::Kind as K;
    match m.kind {
        None | Some(K::NullValue(_)) => LbValue::Null,
        Some(K::StringValue(text)) => LbValue::Text(name(&text)),
        // Both zeros are one number.
        Some(K::NumberValue(n)) => LbValue::Number((n + 0.0).to_bits()),
        Some(K::BoolValue(b)) => LbValue::Bool(b),
        Some(K::ListValue(list)) => LbValue::List(list.values.into_iter().map(value).collect()),
        Some(K::StructValue(m)) => LbValue::Struct(hash_of(&m)),
    }
}
