//! Changes to headers, and the rendering of templates.

use mizzen_http::Head;

use crate::config::{Command, HeaderOps, HeaderSource, Template};

/// Where the values of commands come from.
pub trait Values {
    /// Appends the value to `out`; false if there is none, and nothing was appended.
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool;
}

impl Template {
    /// Renders it; a command without a value leaves `missing`. Whether every command had a value.
    pub fn render(&self, values: &dyn Values, missing: &[u8], out: &mut Vec<u8>) -> bool {
        let _ = (values, missing, out);
        unimplemented!()
    }
}

/// Applies changes to `head`, which is the request's or the response's, as `which` says: commands on its own headers read it as it is at
/// that moment, everything else is asked of `values`.
pub fn apply_headers(ops: &HeaderOps, head: &mut Head, which: HeaderSource, values: &dyn Values) {
    let _ = (ops, head, which, values);
    unimplemented!()
}
