//! Envoy's URI templates: patterns of a path by its segments.

use mizzen_protos::envoy::envoy::config::core::v3::TypedExtensionConfig;
use mizzen_protos::envoy::envoy::extensions::path::r#match::uri_template::v3 as uri_template;

use super::cx::{Cx, Res, type_name};
use super::matchers;
use crate::config::Regex;

const TYPE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// `*` and `{name}` are one segment, or a part of one before a literal; `**` is any number of segments, also none; `{name=pattern}` is its pattern.
///
/// For Envoy they match what RFC 3986 has in a segment; here they match whatever is between slashes, so that no odd character takes a request out of a
/// policy.
pub(crate) fn compile(cx: &mut Cx, m: TypedExtensionConfig) -> Res<Regex> {
    let TypedExtensionConfig { name, typed_config } = m;
    let Some(any) = typed_config else { return cx.refuse("typed_config", "it is required") };
    if type_name(&any) != TYPE {
        return cx.refuse("typed_config", format!("`{name}` of type {} is not supported", type_name(&any)));
    }
    let uri_template::UriTemplateMatchConfig { path_template } = cx.unpack(&any)?;
    match expression(&path_template) {
        Ok(expression) => matchers::regex_of(cx, &expression),
        Err(why) => cx.refuse("typed_config.path_template", format!("`{path_template}`: {why}")),
    }
}

fn expression(template: &str) -> Result<String, &'static str> {
    if !template.starts_with('/') {
        return Err("it has to begin with a slash");
    }
    let mut out = String::new();
    let mut after_any = false;
    parts(template, &mut out, &mut after_any, true)?;
    Ok(out)
}

fn parts(template: &str, out: &mut String, after_any: &mut bool, outside: bool) -> Result<(), &'static str> {
    let mut rest = template;
    // Two operators in a row could divide a segment between them in more than one way.
    let mut after_operator = false;
    while let Some(first) = rest.chars().next() {
        let is_operator = matches!(first, '*' | '{');
        if is_operator && *after_any {
            return Err("`**` has to be its last operator");
        }
        if is_operator && after_operator {
            return Err("between two operators there has to be something");
        }
        after_operator = is_operator;
        if let Some(after) = rest.strip_prefix("**") {
            out.push_str(".*");
            *after_any = true;
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            out.push_str("[^/]+");
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{').filter(|_| outside) {
            let Some((inner, after)) = after.split_once('}') else { return Err("a brace is not closed") };
            let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err("a variable has no name of letters, digits and underscores");
            }
            parts(pattern, out, after_any, false)?;
            rest = after;
        } else if matches!(first, '{' | '}') {
            return Err("a brace is out of place");
        } else {
            let end = rest.find(['*', '{', '}']).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            out.push_str(&regex::escape(&crate::steps::spelling::spelled(literal)));
            rest = after;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let check = |template: &str, yes: &[&str], no: &[&str]| {
            let whole = regex::Regex::new(&format!(r"\A(?:{})\z", expression(template).unwrap())).unwrap();
            yes.iter().for_each(|path| assert!(whole.is_match(path), "{template} is {path}"));
            no.iter().for_each(|path| assert!(!whole.is_match(path), "{template} is not {path}"));
        };
        check("/a/*", &["/a/b", "/a/b.c", "/a/*", "/a/%20"], &["/a", "/a/", "/a/b/", "/a/b/c", "/A/b"]);
        check("/a/*/c", &["/a/b/c"], &["/a/c", "/a//c", "/a/b/b/c", "/a/b/c/"]);
        check("/a/**", &["/a/", "/a/b", "/a/b/c/"], &["/a", "/b/a/"]);
        check("/a/**/c", &["/a/b/c", "/a/b/b/c", "/a//c"], &["/a/c", "/a/b/c/d"]);
        check("/*/b/**", &["/a/b/", "/a/b/c/d"], &["/b/c", "/a/a/b/c"]);
        check("/v/{file}.m4u8", &["/v/1.m4u8"], &["/v/.m4u8", "/v/a/1.m4u8", "/v/1xm4u8"]);
        check("/{path=v1/*}/{rest=**}", &["/v1/a/", "/v1/a/b/c"], &["/v1/", "/v2/a/b"]);
        check("/caf\u{e9}/*", &["/caf%C3%A9/x"], &["/cafe/x"]);
    }

    #[test]
    fn no_templates() {
        for (template, why) in [
            ("a/*", "slash"),
            ("/**/*", "last operator"),
            ("/**/{x}", "last operator"),
            ("/***", "last operator"),
            ("/*{x}", "between"),
            ("/{x", "not closed"),
            ("/x}", "out of place"),
            ("/{x={y}}", "out of place"),
            ("/{}", "no name"),
            ("/{a-b}", "no name"),
        ] {
            assert!(expression(template).is_err_and(|e| e.contains(why)), "{template}: {:?}", expression(template));
        }
    }
}
