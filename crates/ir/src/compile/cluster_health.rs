//! Health of a cluster's hosts: outlier detection and active checks.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::cluster::v3 as cluster;
use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::endpoint::v3 as endpoint;
use mizzen_protos::envoy::envoy::r#type::v3 as types;
use mizzen_protos::wkt;

use super::cluster::is_true;
use super::cluster_http::default_true;
use super::cx::{Cx, Res, harmless, name, number, refused};
use super::{headers, matchers};
use crate::config::{
    CheckKind, Consecutive, EndpointAddress, EndpointCheck, FailurePercentage, GrpcCheck, HealthCheck, HttpCheck, Outlier, Pace,
    SuccessRate, TcpCheck,
};

pub(super) fn outlier(cx: &mut Cx, m: cluster::OutlierDetection) -> Res<Outlier> {
    let cluster::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = m;
    refused!(cx; monitors);
    let base = positive(cx, "base_ejection_time", base_ejection_time)?.unwrap_or(Duration::from_secs(30));
    let max = positive(cx, "max_ejection_time", max_ejection_time)?.unwrap_or(Duration::from_secs(300).max(base));
    if max < base {
        return cx.refuse("max_ejection_time", "it is shorter than base_ejection_time");
    }
    let percent = |field: &str, value: Option<wkt::UInt32Value>, default: u32| match number(value).unwrap_or(default) {
        more @ 101.. => cx.refuse(field, format!("{more} is more than 100")),
        share => Ok(share),
    };
    let count = |value, default| number(value).unwrap_or(default);
    Ok(Outlier {
        interval: positive(cx, "interval", interval)?.unwrap_or(Duration::from_secs(10)),
        base_ejection: base,
        max_ejection: max,
        max_jitter: cx.duration("max_ejection_time_jitter", max_ejection_time_jitter)?.unwrap_or_default(),
        max_percent: percent("max_ejection_percent", max_ejection_percent, 10)?,
        always_one: is_true(always_eject_one_host),
        split: split_external_local_origin_errors,
        consecutive_5xx: Consecutive {
            count: count(consecutive_5xx, 5),
            enforcing: percent("enforcing_consecutive_5xx", enforcing_consecutive_5xx, 100)?,
        },
        consecutive_gateway: Consecutive {
            count: count(consecutive_gateway_failure, 5),
            enforcing: percent("enforcing_consecutive_gateway_failure", enforcing_consecutive_gateway_failure, 0)?,
        },
        consecutive_local: Consecutive {
            count: count(consecutive_local_origin_failure, 5),
            enforcing: percent("enforcing_consecutive_local_origin_failure", enforcing_consecutive_local_origin_failure, 100)?,
        },
        success_rate: SuccessRate {
            minimum_hosts: count(success_rate_minimum_hosts, 5),
            request_volume: count(success_rate_request_volume, 100),
            stdev_factor: count(success_rate_stdev_factor, 1900),
            enforcing: percent("enforcing_success_rate", enforcing_success_rate, 100)?,
            enforcing_local: percent("enforcing_local_origin_success_rate", enforcing_local_origin_success_rate, 100)?,
        },
        failure_percentage: FailurePercentage {
            threshold: percent("failure_percentage_threshold", failure_percentage_threshold, 85)?,
            minimum_hosts: count(failure_percentage_minimum_hosts, 5),
            request_volume: count(failure_percentage_request_volume, 50),
            enforcing: percent("enforcing_failure_percentage", enforcing_failure_percentage, 0)?,
            enforcing_local: percent("enforcing_failure_percentage_local_origin", enforcing_failure_percentage_local_origin, 0)?,
        },
        is_ended_by_checks: default_true(successful_active_health_check_uneject_host),
        finds_degraded: is_true(detect_degraded_hosts),
    })
}

/// A duration that may be left out, but not be zero.
fn positive(cx: &Cx, field: &str, value: Option<wkt::Duration>) -> Res<Option<Duration>> {
    match cx.duration(field, value)? {
        Some(Duration::ZERO) => cx.refuse(field, "it has to be longer than zero"),
        other => Ok(other),
    }
}

/// The most bytes of a payload of which a check waits for the answer.
const MOST_PAYLOAD: usize = 64 * 1024;

/// A cluster's check; Envoy takes one for each cluster.
pub(super) fn check(cx: &mut Cx, checks: Vec<core::HealthCheck>, original_dst: bool, speaks_h2: bool) -> Res<Option<HealthCheck>> {
    if checks.is_empty() {
        return Ok(None);
    }
    if original_dst {
        return cx.refuse("health_checks", "hosts of an ORIGINAL_DST cluster are not checked");
    }
    if checks.len() > 1 {
        return cx.refuse("health_checks", "a cluster has one at most");
    }
    let one = cx.each("health_checks", checks, |cx, m| one(cx, m, speaks_h2))?;
    Ok(one.into_iter().next())
}

fn one(cx: &mut Cx, m: core::HealthCheck, speaks_h2: bool) -> Res<HealthCheck> {
    use core::health_check::HealthChecker as H;
    let core::HealthCheck {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        reuse_connection,
        no_traffic_interval,
        no_traffic_healthy_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        event_log_path,
        event_logger,
        event_service,
        always_log_health_check_failures,
        always_log_health_check_success,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
    } = m;
    // Envoy reads `alt_port` and `event_service` nowhere; and nobody writes a log of checks here.
    harmless!(cx; alt_port, event_service, event_log_path, event_logger, always_log_health_check_failures, always_log_health_check_success);
    let needed = |field: &str, value: Option<Duration>| value.ok_or_else(|| cx.bad(field, "it is required"));
    let threshold = |field: &str, value: Option<wkt::UInt32Value>| number(value).ok_or_else(|| cx.bad(field, "it is required"));
    let interval = needed("interval", positive(cx, "interval", interval)?)?;
    let no_traffic = positive(cx, "no_traffic_interval", no_traffic_interval)?.unwrap_or(Duration::from_secs(60));
    let unhealthy = positive(cx, "unhealthy_interval", unhealthy_interval)?.unwrap_or(interval);
    let pace = Pace {
        interval,
        initial_jitter: cx.duration("initial_jitter", initial_jitter)?.unwrap_or_default(),
        jitter: cx.duration("interval_jitter", interval_jitter)?.unwrap_or_default(),
        jitter_percent: interval_jitter_percent,
        no_traffic,
        no_traffic_healthy: positive(cx, "no_traffic_healthy_interval", no_traffic_healthy_interval)?.unwrap_or(no_traffic),
        unhealthy,
        unhealthy_edge: positive(cx, "unhealthy_edge_interval", unhealthy_edge_interval)?.unwrap_or(unhealthy),
        healthy_edge: positive(cx, "healthy_edge_interval", healthy_edge_interval)?.unwrap_or(interval),
    };
    let timeout = needed("timeout", positive(cx, "timeout", timeout)?)?;
    let (unhealthy_threshold, healthy_threshold) =
        (threshold("unhealthy_threshold", unhealthy_threshold)?, threshold("healthy_threshold", healthy_threshold)?);
    let alpn = tls_options.map(|core::health_check::TlsOptions { alpn_protocols }| alpn_protocols.iter().map(|p| name(p)).collect());
    let kind = match health_checker {
        None => return cx.refuse("health_checker", "it is required"),
        Some(H::HttpHealthCheck(m)) => CheckKind::Http(cx.within("http_health_check", |cx| http(cx, m))?.into()),
        Some(H::TcpHealthCheck(m)) => CheckKind::Tcp(cx.within("tcp_health_check", |cx| tcp(cx, m))?),
        Some(H::GrpcHealthCheck(_)) if !speaks_h2 => {
            return cx.refuse("grpc_health_check", "the cluster does not speak HTTP/2");
        }
        Some(H::GrpcHealthCheck(m)) => CheckKind::Grpc(cx.within("grpc_health_check", |cx| {
            let core::health_check::GrpcHealthCheck { service_name, authority, initial_metadata } = m;
            let headers = headers::additions(cx, "initial_metadata", initial_metadata)?;
            Ok(GrpcCheck { service: name(&service_name), authority: name(&authority), headers })
        })?),
        Some(H::CustomHealthCheck(m)) => return cx.refuse("custom_health_check", format!("`{}` is not supported", m.name)),
    };
    Ok(HealthCheck {
        timeout,
        pace,
        unhealthy_threshold,
        healthy_threshold,
        reuse_connection: default_true(reuse_connection),
        alpn,
        transport_labels: transport_socket_match_criteria.map(|m| super::endpoint::labels(m).into()),
        kind,
    })
}

fn http(cx: &mut Cx, m: core::health_check::HttpHealthCheck) -> Res<HttpCheck> {
    use core::RequestMethod as M;
    let core::health_check::HttpHealthCheck {
        host,
        path,
        send,
        receive,
        response_buffer_size,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
    } = m;
    if path.is_empty() {
        return cx.refuse("path", "it is required");
    }
    let method = match cx.choice("method", method)? {
        M::MethodUnspecified | M::Get => "GET",
        M::Head => "HEAD",
        M::Post => "POST",
        M::Put => "PUT",
        M::Delete => "DELETE",
        M::Options => "OPTIONS",
        M::Trace => "TRACE",
        M::Patch => "PATCH",
        M::Connect => return cx.refuse("method", "CONNECT is no check"),
    };
    let send = cx.some("send", send, payload)?;
    if send.is_some() && matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") {
        return cx.refuse("send", format!("a {method} has no body"));
    }
    let receive = cx.each("receive", receive, payload)?;
    let response_buffer = response_buffer_size.map_or(1024, |v| v.value);
    let expected_bytes: usize = receive.iter().map(|part| part.len()).sum();
    if response_buffer > 0 && expected_bytes as u64 > response_buffer {
        return cx.refuse("receive", format!("{expected_bytes} bytes are more than the {response_buffer} of response_buffer_size"));
    }
    let is_h2 = match cx.choice("codec_client_type", codec_client_type)? {
        types::CodecClientType::Http1 => false,
        types::CodecClientType::Http2 => true,
        types::CodecClientType::Http3 => return cx.refuse("codec_client_type", "HTTP3 is not supported"),
    };
    let mut expected = cx.each("expected_statuses", expected_statuses, statuses)?;
    if expected.is_empty() {
        expected.push((200, 201));
    }
    let level = headers::level(
        cx,
        headers::Fields {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: Vec::new(),
            response_remove: Vec::new(),
        },
    )?;
    Ok(HttpCheck {
        host: name(&host),
        path: name(&path),
        method,
        send: send.unwrap_or_default(),
        receive: receive.into(),
        response_buffer,
        headers: headers::joined([&level]).request,
        expected: expected.into(),
        retriable: cx.each("retriable_statuses", retriable_statuses, statuses)?.into(),
        is_h2,
        service_name: cx.some("service_name_matcher", service_name_matcher, matchers::string)?,
    })
}

fn statuses(cx: &mut Cx, m: types::Int64Range) -> Res<(u16, u16)> {
    let types::Int64Range { start, end } = m;
    let (from, to) = (u16::try_from(start).unwrap_or(0), u16::try_from(end).unwrap_or(0));
    if from < 100 || to > 600 || from >= to {
        return cx.refuse("", format!("{start} up to {end} is no range of statuses"));
    }
    Ok((from, to))
}

fn tcp(cx: &mut Cx, m: core::health_check::TcpHealthCheck) -> Res<TcpCheck> {
    let core::health_check::TcpHealthCheck { send, receive, proxy_protocol_config } = m;
    refused!(cx; proxy_protocol_config);
    let send = cx.some("send", send, payload)?.unwrap_or_default();
    Ok(TcpCheck { send, receive: cx.each("receive", receive, payload)?.into() })
}

/// Bytes, as they are or in hexadecimal digits.
fn payload(cx: &mut Cx, m: core::health_check::Payload) -> Res<Arc<[u8]>> {
    use core::health_check::payload::Payload as P;
    let bytes = match m.payload {
        Some(P::Binary(bytes)) => bytes,
        Some(P::Text(text)) => match hex(&text) {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => return cx.refuse("text", format!("`{text}` is not a number of bytes in hexadecimal digits")),
        },
        None => return cx.refuse("payload", "it is required"),
    };
    if bytes.len() > MOST_PAYLOAD {
        return cx.refuse("payload", format!("more than {MOST_PAYLOAD} bytes"));
    }
    Ok(bytes.into())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// How one host is checked.
pub(super) fn endpoint(cx: &mut Cx, m: endpoint::endpoint::HealthCheckConfig) -> Res<EndpointCheck> {
    let endpoint::endpoint::HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = m;
    let address = match cx.some("address", address, |cx, a| super::address::address(cx, a, false))? {
        None => None,
        Some(EndpointAddress::Socket(address)) => Some(address),
        Some(_) => return cx.refuse("address", "only an address with a port is supported"),
    };
    // The port stands in both, and what is said for itself wins.
    let port = match cx.port("port_value", port_value)? {
        0 => address.map_or(0, |a| a.port()),
        port => port,
    };
    Ok(EndpointCheck { address: address.map(|a| a.ip()), port, hostname: name(&hostname), is_off: disable_active_health_check })
}
