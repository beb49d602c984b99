//! The access log that MeshConfig asks for.

use mizzen_api::istio::{AccessLogEncoding, LogFormat, MeshConfig};
use mizzen_protos::envoy::envoy::{
    config::{
        accesslog::v3::{AccessLogFilter, ResponseFlagFilter, access_log_filter::FilterSpecifier},
        core::v3::{DataSource, SubstitutionFormatString, data_source, substitution_format_string::Format},
    },
    extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
};

use crate::{draft::Log, wire};

/// Istio's line of text.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
\"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's keys, and the two identities that Mizzen adds.
const JSON: [(&str, &str); 26] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_peer_uri_san", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_peer_uri_san", "%UPSTREAM_PEER_URI_SAN%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// What a connection manager or a TCP proxy logs: nothing, or one line each.
pub(crate) fn log(mesh: &MeshConfig) -> Option<Log> {
    file(mesh).map(|file| Log { condition: None, file })
}

/// What a captured listener itself logs: connections for which it has no chain.
pub(crate) fn listener_log(mesh: &MeshConfig) -> Option<Log> {
    let no_route = FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags: vec!["NR".into()] });
    file(mesh).map(|file| Log { condition: Some(AccessLogFilter { filter_specifier: Some(no_route) }), file })
}

fn file(mesh: &MeshConfig) -> Option<FileAccessLog> {
    if mesh.access_log_file.is_empty() {
        return None;
    }
    let text = |line: &str| {
        let specifier = Some(data_source::Specifier::InlineString(line.to_owned()));
        Format::TextFormatSource(DataSource { specifier, ..Default::default() })
    };
    let format = match (&mesh.access_log_format, mesh.access_log_encoding) {
        (Some(LogFormat::Text(line)), _) => text(line),
        (Some(LogFormat::Json(members)), _) => Format::JsonFormat(wire::json_object(members)),
        (None, AccessLogEncoding::Text) => text(TEXT),
        (None, AccessLogEncoding::Json) => Format::JsonFormat(wire::object(JSON.map(|(key, operator)| (key, wire::text(operator))))),
    };
    let format = SubstitutionFormatString { format: Some(format), ..Default::default() };
    Some(FileAccessLog { path: mesh.access_log_file.clone(), access_log_format: Some(AccessLogFormat::LogFormat(format)) })
}
