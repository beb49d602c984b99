//! What the lines of access logs hold.

use serde_json::{Map, Value};

use super::{AccessLogEncoding, text::operators};
use crate::read::{At, quoted};

/// What a line of an access log holds, with command operators such as `%RESPONSE_CODE%`.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// A line of text, its newline included.
    Text(String),
    /// The members of an object, in texts of which, however deep they lie, operators stand.
    Json(Map<String, Value>),
}

impl LogFormat {
    /// `accessLogFormat`; none if it is empty or wrong.
    pub(crate) fn read(at: &At<'_>, encoding: AccessLogEncoding) -> Option<LogFormat> {
        let text = at.text();
        if text.is_empty() {
            return None;
        }
        match encoding {
            AccessLogEncoding::Text => {
                operators(at, &text);
                let end = if text.ends_with('\n') { "" } else { "\n" };
                Some(LogFormat::Text(text + end))
            }
            AccessLogEncoding::Json => match serde_json::from_str(&text) {
                Ok(Value::Object(members)) => {
                    members.values().for_each(|value| each_text(value, &mut |text| operators(at, text)));
                    Some(LogFormat::Json(members))
                }
                Ok(_) => {
                    at.fail("must be an object of JSON, since accessLogEncoding is JSON");
                    None
                }
                Err(error) => {
                    at.fail(format!("must be an object of JSON, since accessLogEncoding is JSON: {}", quoted(&error.to_string())));
                    None
                }
            },
        }
    }
}

fn each_text(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, see)),
        Value::Object(members) => members.values().for_each(|member| each_text(member, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
