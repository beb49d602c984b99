//! What a bootstrap's runtime and its overload manager say that concerns us: how many connections listeners may have.

use std::collections::BTreeMap;

use mizzen_engine::ConnectionLimits;
use mizzen_protos::{
    envoy::envoy::{
        config::{
            bootstrap::v3::{Bootstrap, LayeredRuntime, runtime_layer::LayerSpecifier},
            overload::v3::{OverloadManager, ResourceMonitor, resource_monitor::ConfigType},
        },
        extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
    },
    wkt::{Struct, Value, value::Kind},
};
use mizzen_types::runtime::{GLOBAL_CONNECTIONS, bounded_listener, bounds_connections};
use prost::{Message, Name as _};

use crate::error::BootstrapError;

/// The resource monitor of all listeners' connections.
const MONITOR: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// How many connections listeners may have: by the static layers of the runtime, of which the later ones hold, and by the overload manager, whose limit of
/// all listeners together holds before the runtime's. What else the two have is added to what does nothing.
///
/// # Errors
/// Of a limit that is no number: it would be none.
pub(crate) fn connection_limits(bootstrap: &Bootstrap, unused: &mut Vec<String>) -> Result<ConnectionLimits, BootstrapError> {
    let mut limits = match &bootstrap.layered_runtime {
        Some(runtime) => of_layers(runtime, unused)?,
        None => ConnectionLimits::default(),
    };
    if let Some(global) = bootstrap.overload_manager.as_ref().map(|manager| of_manager(manager, unused)).transpose()?.flatten() {
        limits.global = Some(global);
    }
    Ok(limits)
}

fn of_layers(runtime: &LayeredRuntime, unused: &mut Vec<String>) -> Result<ConnectionLimits, BootstrapError> {
    let mut values: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for (i, layer) in runtime.layers.iter().enumerate() {
        let at = |rest: &str| format!("layered_runtime.layers[{i}].{rest}");
        match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => {
                let mut leaves = Vec::new();
                flatten(fields, "", &mut leaves);
                for (key, value) in leaves {
                    let field = at(&format!("static_layer[{key}]"));
                    if bounds_connections(&key) {
                        values.insert(key, limit(value).map_err(|reason| BootstrapError::Field { field, reason })?);
                    } else {
                        unused.push(field);
                    }
                }
            }
            Some(LayerSpecifier::DiskLayer(_)) => unused.push(at("disk_layer")),
            Some(LayerSpecifier::RtdsLayer(_)) => unused.push(at("rtds_layer")),
            // It holds what is changed by the admin interface, where nothing of the kind can be.
            Some(LayerSpecifier::AdminLayer(_)) | None => {}
        }
    }
    let mut limits = ConnectionLimits::default();
    for (key, value) in values {
        match bounded_listener(&key) {
            Some(listener) => limits.listeners.extend(value.map(|most| (listener.into(), most))),
            None if key == GLOBAL_CONNECTIONS => limits.global = value,
            None => {}
        }
    }
    Ok(limits)
}

/// The keys of a layer with their values: what stands within others has the names of both, joined by a dot.
fn flatten<'v>(fields: &'v Struct, within: &str, found: &mut Vec<(String, &'v Value)>) {
    let mut all: Vec<_> = fields.fields.iter().collect();
    all.sort_by_key(|(key, _)| *key);
    for (key, value) in all {
        let key = if within.is_empty() { key.clone() } else { format!("{within}.{key}") };
        match &value.kind {
            // A share, which is one value.
            Some(Kind::StructValue(inner)) if !inner.fields.contains_key("numerator") && !inner.fields.contains_key("denominator") => {
                flatten(inner, &key, found);
            }
            _ => found.push((key, value)),
        }
    }
}

/// A number of connections, as a number or as a text; none where the text is empty.
fn limit(value: &Value) -> Result<Option<u64>, String> {
    match &value.kind {
        Some(Kind::StringValue(text)) if text.is_empty() => Ok(None),
        Some(Kind::StringValue(text)) => match text.trim().parse() {
            Ok(most) => Ok(Some(most)),
            Err(_) => Err(format!("must be a number of connections, is `{text}`")),
        },
        // As far as a number that JSON has is exact.
        Some(Kind::NumberValue(most)) if most.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(most) => Ok(Some(*most as u64)),
        Some(Kind::NumberValue(most)) => Err(format!("must be a number of connections, is {most}")),
        _ => Err("must be a number of connections".to_owned()),
    }
}

fn of_manager(manager: &OverloadManager, unused: &mut Vec<String>) -> Result<Option<u64>, BootstrapError> {
    // How often other monitors look says nothing of this one.
    let OverloadManager { refresh_interval: _, resource_monitors, actions, loadshed_points, buffer_factory_config } = manager;
    let mut global = None;
    for (i, monitor) in resource_monitors.iter().enumerate() {
        if monitor.name == MONITOR {
            global = Some(of_monitor(monitor, &format!("overload_manager.resource_monitors[{i}].typed_config"))?);
        } else {
            unused.push(format!("overload_manager.resource_monitors[{i}] ({})", monitor.name));
        }
    }
    unused.extend(actions.iter().enumerate().map(|(i, action)| format!("overload_manager.actions[{i}] ({})", action.name)));
    unused.extend(loadshed_points.iter().enumerate().map(|(i, point)| format!("overload_manager.loadshed_points[{i}] ({})", point.name)));
    unused.extend(buffer_factory_config.iter().map(|_| "overload_manager.buffer_factory_config".to_owned()));
    Ok(global)
}

fn of_monitor(monitor: &ResourceMonitor, field: &str) -> Result<u64, BootstrapError> {
    let refused = |field: String, reason: String| Err(BootstrapError::Field { field, reason });
    let Some(ConfigType::TypedConfig(any)) = &monitor.config_type else { return refused(field.to_owned(), "is required".to_owned()) };
    let kind = any.type_url.rsplit('/').next().unwrap_or_default();
    if kind != DownstreamConnectionsConfig::full_name() {
        return refused(field.to_owned(), format!("must be a {}, is {kind}", DownstreamConnectionsConfig::full_name()));
    }
    let Ok(config) = DownstreamConnectionsConfig::decode(&*any.value) else {
        return refused(field.to_owned(), "not readable".to_owned());
    };
    match u64::try_from(config.max_active_downstream_connections) {
        Ok(most @ 1..) => Ok(most),
        _ => refused(
            format!("{field}.max_active_downstream_connections"),
            format!("must be greater than 0, is {}", config.max_active_downstream_connections),
        ),
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::json::Unknown;

    use super::*;
    use crate::parse_bootstrap;

    /// `GLOBAL LISTENER=LIMIT… | what does nothing`, or what is wrong.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let mut unused = Vec::new();
        let read = connection_limits(&parse_bootstrap(text, Unknown::Refused).unwrap(), &mut unused);
        let shown = match read {
            Ok(limits) => {
                let global = limits.global.map_or("-".to_owned(), |most| most.to_string());
                let listeners: String = limits.listeners.iter().map(|(name, most)| format!(" {name}={most}")).collect();
                format!("{global}{listeners} | {}", unused.join(" "))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown.trim_end(), expected, "{text}");
    }

    #[test]
    fn layers() {
        let layers = |layers: &str, expected: &str| check(&format!("layered_runtime: {{layers: [{layers}]}}"), expected);
        let key = "envoy.resource_limits.listener.0.0.0.0_80.connection_limit";
        layers("", "- |");
        layers(&format!("{{name: a, static_layer: {{{key}: 2, overload.global_downstream_max_connections: '7'}}}}"), "7 0.0.0.0_80=2 |");
        // As maps within maps, as in the folders of Envoy's oldest layer.
        layers("{name: a, static_layer: {overload: {global_downstream_max_connections: 7}}}", "7 |");
        let nested = "{name: a, static_layer: {envoy: {resource_limits: {listener: {web: {connection_limit: '3'}}}}}}";
        layers(nested, "- web=3 |");
        // The later one holds, and an empty one takes the limit away.
        layers(&format!("{nested}, {{name: b, static_layer: {{envoy.resource_limits.listener.web.connection_limit: 5}}}}"), "- web=5 |");
        layers(&format!("{nested}, {{name: b, static_layer: {{envoy.resource_limits.listener.web.connection_limit: ''}}}}"), "- |");
        layers(
            "{name: a, static_layer: {re2.max_program_size.error_level: '1', share: {numerator: 1, denominator: HUNDRED}, x: {y: true}}}, \
             {name: b, disk_layer: {symlink_root: /a}}, {name: c, rtds_layer: {name: r, rtds_config: {ads: {}}}}, {name: d, admin_layer: {}}",
            "- | layered_runtime.layers[0].static_layer[re2.max_program_size.error_level] layered_runtime.layers[0].static_layer[share] \
             layered_runtime.layers[0].static_layer[x.y] layered_runtime.layers[1].disk_layer layered_runtime.layers[2].rtds_layer",
        );
        for (value, said) in [("few", "`few`"), ("-1", "-1"), ("1.5", "1.5"), ("'-1'", "`-1`")] {
            layers(
                &format!("{{name: a, static_layer: {{{key}: {value}}}}}"),
                &format!("layered_runtime.layers[0].static_layer[{key}]: must be a number of connections, is {said}"),
            );
        }
        layers(
            &format!("{{name: a, static_layer: {{{key}: true}}}}"),
            &format!("layered_runtime.layers[0].static_layer[{key}]: must be a number of connections"),
        );
    }

    #[test]
    fn overload_managers() {
        let config = |most: i64| {
            format!(
                "{{name: {MONITOR}, typed_config: {{'@type': type.googleapis.com/{}, max_active_downstream_connections: {most}}}}}",
                DownstreamConnectionsConfig::full_name()
            )
        };
        let heap = "{name: envoy.resource_monitors.fixed_heap, typed_config: {'@type': \
                    type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 9}}";
        check(&format!("overload_manager: {{refresh_interval: 1s, resource_monitors: [{}]}}", config(9)), "9 |");
        // It holds, and not the older way to say it.
        check(
            &format!(
                "layered_runtime: {{layers: [{{name: a, static_layer: {{overload.global_downstream_max_connections: 7}}}}]}}\n\
                 overload_manager: {{resource_monitors: [{}]}}",
                config(9)
            ),
            "9 |",
        );
        check(
            &format!(
                "overload_manager: {{resource_monitors: [{heap}, {}], loadshed_points: [{{name: p}}], buffer_factory_config: {{}}, \
                 actions: [{{name: envoy.overload_actions.shrink_heap}}]}}",
                config(9)
            ),
            "9 | overload_manager.resource_monitors[0] (envoy.resource_monitors.fixed_heap) \
             overload_manager.actions[0] (envoy.overload_actions.shrink_heap) overload_manager.loadshed_points[0] (p) \
             overload_manager.buffer_factory_config",
        );
        let field = "overload_manager.resource_monitors[0].typed_config";
        check(
            &format!("overload_manager: {{resource_monitors: [{}]}}", config(0)),
            &format!("{field}.max_active_downstream_connections: must be greater than 0, is 0"),
        );
        check(&format!("overload_manager: {{resource_monitors: [{{name: {MONITOR}}}]}}"), &format!("{field}: is required"));
    }
}
