//! Access logs.

use std::collections::HashMap;
use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::accesslog::v3 as log;
use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::access_loggers::file::v3 as file;
use mizzen_protos::envoy::envoy::extensions::access_loggers::stream::v3 as stream;
use mizzen_protos::wkt;

use super::cx::{Cx, Res, harmless, held, refused, silent, type_name};
use super::format::{Unknown, template};
use super::matchers;
use crate::config::{AccessLog, Comparison, LogFilter, LogFormat, LogTarget, LogValue};

/// Envoy's format where none is given.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(super) fn list(cx: &mut Cx, logs: Vec<log::AccessLog>) -> Res<Arc<[Arc<AccessLog>]>> {
    cx.once(|shared| &mut shared.logs, logs, all, |_| true)
}

fn all(cx: &mut Cx, logs: Vec<log::AccessLog>) -> Res<Arc<[Arc<AccessLog>]>> {
    let logs = cx.each("access_log", logs, one)?;
    Ok(held(logs.into_iter().flatten().map(Arc::new).collect()))
}

/// None if it goes nowhere.
fn one(cx: &mut Cx, m: log::AccessLog) -> Res<Option<AccessLog>> {
    let log::AccessLog { name, filter, config_type } = m;
    let Some(log::access_log::ConfigType::TypedConfig(any)) = config_type else {
        return cx.refuse("typed_config", format!("access log `{name}` has none"));
    };
    let filter = cx.some("filter", filter, log_filter)?;
    let found = cx.within("typed_config", |cx| match type_name(&any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => file_log(cx, &any),
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let stream::StdoutAccessLog { access_log_format } = cx.unpack(&any)?;
            let format = access_log_format.map(|stream::stdout_access_log::AccessLogFormat::LogFormat(f)| f);
            Ok(Some((LogTarget::Stdout, substitution(cx, format)?)))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let stream::StderrAccessLog { access_log_format } = cx.unpack(&any)?;
            let format = access_log_format.map(|stream::stderr_access_log::AccessLogFormat::LogFormat(f)| f);
            Ok(Some((LogTarget::Stderr, substitution(cx, format)?)))
        }
        // A log that is not written changes neither who may talk nor what is sent.
        other => {
            cx.warn("", format!("access log `{name}` of type {other} is not written"));
            Ok(None)
        }
    })?;
    Ok(found.map(|(target, format)| AccessLog { target, format, filter }))
}

fn file_log(cx: &mut Cx, any: &mizzen_protos::Any) -> Res<Option<(LogTarget, LogFormat)>> {
    use file::file_access_log::AccessLogFormat as F;
    let file::FileAccessLog { path, access_log_format } = cx.unpack(any)?;
    let target = match path.as_str() {
        "/dev/stdout" | "/proc/self/fd/1" => LogTarget::Stdout,
        "/dev/stderr" | "/proc/self/fd/2" => LogTarget::Stderr,
        "/dev/null" => return Ok(None),
        _ => {
            cx.warn("path", format!("`{path}`: only the standard streams are written to; this log is not written"));
            return Ok(None);
        }
    };
    let format = match access_log_format {
        None => text(cx, DEFAULT)?,
        Some(F::Format(format)) => text(cx, &format)?,
        Some(F::JsonFormat(json) | F::TypedJsonFormat(json)) => json_format(cx, json, false)?,
        Some(F::LogFormat(format)) => cx.within("log_format", |cx| substitution(cx, Some(format)))?,
    };
    Ok(Some((target, format)))
}

fn text(cx: &mut Cx, format: &str) -> Res<LogFormat> {
    Ok(LogFormat::Text(template(cx, format, Unknown::Warn)?))
}

fn substitution(cx: &mut Cx, m: Option<core::SubstitutionFormatString>) -> Res<LogFormat> {
    use core::substitution_format_string::Format as F;
    let Some(m) = m else { return text(cx, DEFAULT) };
    let core::SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } = m;
    silent!(json_format_options, content_type);
    harmless!(cx; formatters);
    match format {
        None => text(cx, DEFAULT),
        Some(F::TextFormat(format)) => cx.within("text_format", |cx| text(cx, &format)),
        Some(F::TextFormatSource(source)) => cx.within("text_format_source", |cx| {
            let bytes = inline(cx, source)?;
            text(cx, &String::from_utf8_lossy(&bytes))
        }),
        Some(F::JsonFormat(json)) => cx.within("json_format", |cx| json_format(cx, json, omit_empty_values)),
    }
}

/// The bytes of a source that is given in place.
pub(super) fn inline(cx: &Cx, m: core::DataSource) -> Res<Vec<u8>> {
    use core::data_source::Specifier as S;
    let core::DataSource { watched_directory, specifier } = m;
    refused!(cx; watched_directory);
    match specifier {
        Some(S::InlineBytes(bytes)) => Ok(bytes),
        Some(S::InlineString(text)) => Ok(text.into_bytes()),
        Some(S::Filename(_)) => cx.refuse("filename", "only what is given in place is supported"),
        Some(S::EnvironmentVariable(_)) => cx.refuse("environment_variable", "only what is given in place is supported"),
        None => Ok(Vec::new()),
    }
}

fn json_format(cx: &mut Cx, json: wkt::Struct, omit_empty: bool) -> Res<LogFormat> {
    Ok(LogFormat::Json { members: members(cx, json.fields)?, omit_empty })
}

type Members = Arc<[(Arc<str>, LogValue)]>;

fn members(cx: &mut Cx, fields: HashMap<String, wkt::Value>) -> Res<Members> {
    // The wire has no order for them: as Envoy, by name.
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(key, v): (String, wkt::Value)| {
        let value = cx.within(&key, |cx| value(cx, v))?;
        Ok((Arc::from(key), value))
    };
    fields.into_iter().map(one).collect()
}

fn value(cx: &mut Cx, v: wkt::Value) -> Res<LogValue> {
    use wkt::value::Kind as K;
    Ok(match v.kind {
        None | Some(K::NullValue(_)) => LogValue::Null,
        Some(K::NumberValue(n)) => LogValue::Number(n),
        Some(K::BoolValue(b)) => LogValue::Bool(b),
        Some(K::StringValue(s)) => LogValue::Text(template(cx, &s, Unknown::Warn)?),
        Some(K::StructValue(s)) => LogValue::Object(members(cx, s.fields)?),
        Some(K::ListValue(l)) => LogValue::List(cx.each("", l.values, value)?.into()),
    })
}

fn log_filter(cx: &mut Cx, m: log::AccessLogFilter) -> Res<LogFilter> {
    use log::access_log_filter::FilterSpecifier as S;
    let log::AccessLogFilter { filter_specifier } = m;
    Ok(match filter_specifier {
        Some(S::StatusCodeFilter(log::StatusCodeFilter { comparison: Some(c) })) => {
            let (op, value) = comparison(cx, c)?;
            LogFilter::Status(op, value)
        }
        Some(S::DurationFilter(log::DurationFilter { comparison: Some(c) })) => {
            let (op, value) = comparison(cx, c)?;
            LogFilter::Duration(op, value)
        }
        Some(S::HeaderFilter(log::HeaderFilter { header: Some(header) })) => LogFilter::Header(matchers::header(cx, header)?),
        Some(S::ResponseFlagFilter(log::ResponseFlagFilter { flags })) => LogFilter::Flags(flags.into_iter().map(Arc::from).collect()),
        Some(S::GrpcStatusFilter(log::GrpcStatusFilter { statuses, exclude })) => LogFilter::Grpc(statuses.into(), exclude),
        Some(S::AndFilter(log::AndFilter { filters })) => LogFilter::And(cx.each("and_filter", filters, log_filter)?.into()),
        Some(S::OrFilter(log::OrFilter { filters })) => LogFilter::Or(cx.each("or_filter", filters, log_filter)?.into()),
        // Never a health check of Envoy's own here, so this passes always.
        Some(S::NotHealthCheckFilter(log::NotHealthCheckFilter {})) => LogFilter::And(Arc::from([])),
        // More lines than asked for, with parts of requests in them, could be worse than a refusal.
        _ => return cx.refuse("filter_specifier", "this filter of access logs is not supported"),
    })
}

fn comparison(cx: &mut Cx, m: log::ComparisonFilter) -> Res<(Comparison, u32)> {
    use log::comparison_filter::Op;
    let log::ComparisonFilter { op, value } = m;
    let op = match cx.choice("op", op)? {
        Op::Eq => Comparison::Eq,
        Op::Ge => Comparison::Ge,
        Op::Le => Comparison::Le,
        Op::Ne => Comparison::Ne,
    };
    let Some(core::RuntimeUInt32 { default_value, runtime_key }) = value else { return cx.refuse("value", "it is required") };
    silent!(runtime_key);
    Ok((op, default_value))
}
